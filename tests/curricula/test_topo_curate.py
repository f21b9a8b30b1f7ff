"""TopoCurate: the graph of equal turns, its potential and scores by hand and by a twin, and the curriculum that draws by them."""

import json
import random

import pytest

from rlx.curricula.topo_curate import quotient, sft_scores, task_score, topo_curate
from rlx.types import Group, Node, Task


def group(*trials, id='t', end=1):
  """Trials are (turns, return); a turn is what is said, and observed is what was said before."""
  nodes = []
  for said, ret in trials:
    for k, text in enumerate(said):
      nodes.append(Node(len(nodes) - 1 if k else -1, f'after {said[k - 1]}' if k else 'go', [], not k, text, [], None, None, {},
                        label=dict(action=text.split()[0].casefold())))
    nodes[-1].end, nodes[-1].reward['task'] = end, ret
  return Group(Task(id), nodes)


def graph(*trials, **kw):
  return quotient(group(*trials), labels=('action',), **kw)


FOUR = (('ab', 1.), ('ac', 0.), ('acb', 1.), ('dc', 0.))


def test_by_hand():
  """Start -> a (3 trials, 2 succeed), d (0 of 1); a -> b (1 of 1), c (1 of 2); c -> b."""
  q = graph(*FOUR)
  a, b, c, d = (('a',), ('b',), ('c',), ('d',))
  assert q.potential == {None: .5, a: 2 / 3, b: 1., c: 1 / 3, d: 0.}
  assert q.branches == {None: {a: {0, 1, 2}, d: {3}}, a: {b: {0}, c: {1, 2}}, c: {b: {2}}, d: {c: {3}}}
  assert task_score(q, mix=1.) == 1 / 4                   # of four branches the one to d fails
  assert task_score(q, mix=0.) == 1.                      # two successes, two chains
  assert task_score(q) == pytest.approx(.625)


def test_chains_in_one_way():
  assert task_score(graph(('ab', 1.), ('ab', 1.), ('ab', 1.)), mix=0.) == pytest.approx(1 / 3)
  assert task_score(graph(('ab', 1.), ('ab', 1.))) == .25 and task_score(graph(('ab', 0.), ('cd', 0.))) == .5
  assert task_score(graph(('ab', 0.))) == 0.


def test_what_teaches():
  """Trial 2 falls from 2/3 to 1/3 and rises to 1; trial 0 takes the short way; both are one of two successes at a."""
  q = graph(*FOUR)
  only = lambda name: sft_scores(q, weights={name: 1.})
  assert only('recovery') == [0., 0., 1., 0.] and only('efficiency') == [1., 0., 0., 0.] and only('diversity') == [0.] * 4
  assert sft_scores(q) == pytest.approx([1 / 3, 0., 1 / 3, 0.])
  assert sft_scores(q, weights=dict(recovery=1.), drop=.5) == [0.] * 4
  q = graph(('ab', 1.), ('ab', 1.), ('cb', 1.), ('c', 0.))      # at the start a third of the successes take c
  assert sft_scores(q, weights=dict(diversity=1.)) == [0., 0., 1., 0.]
  assert sft_scores(graph(('ab', 0.))) == [0.]


def test_which_turns_are_the_same():
  """By what is said and what is observed after it, case and spaces aside; labels are another way."""
  trials = ((('A  x', 'b'), 1.), (('a X', 'c'), 0.))
  assert quotient(group(*trials)).potential == {None: .5, ('a x', 'after a x'): .5, ('b', ''): 1., ('c', ''): 0.}
  ends = quotient(group((('a', 'b'), 1.), (('a', 'b', 'c'), 1.)))      # where one ends the other goes on: b is two turns
  assert set(ends.potential) == {None, ('a', 'after a'), ('b', ''), ('b', 'after b'), ('c', '')}
  assert len(quotient(group((('a y', 'b'), 1.), (('a x', 'c'), 0.)), labels=('action',)).potential) == 3 + 1


def test_which_trials_count():
  assert quotient(group(('a', 1.), end=3)).paths == [] and quotient(group(('a', None), ('b', 1.))).paths == [(('b', ''),)]
  assert quotient(group(('a', 1.), end=2)).success == [True]
  assert quotient(group(('a', .5), ('b', .6))).success == [False, True] and quotient(group(('a', .5)), success=.4).success == [True]


def test_cycles_end():
  q = graph(('aaab', 1.), ('aa', 0.))
  assert q.potential[('a',)] == .5 and sft_scores(q, weights=dict(efficiency=1.)) == [0., 0.] and task_score(q, mix=1.) == 0.


def test_shared_steps():
  """A tree of two episodes is two trials."""
  nodes = [Node(-1, 'go', [], True, 'a', [], None, None, {})] + [Node(0, 'x', [], False, t, [], None, None, {}, end=1) for t in 'bc']
  nodes[1].reward['task'] = 1.
  assert quotient(Group(Task('t'), nodes)).potential == {None: .5, ('a', 'x'): .5, ('b', ''): 1., ('c', ''): 0.}


def test_twin():
  """Against a count of trials, one by one."""
  rng = random.Random(0)
  for _ in range(100):
    trials = [(''.join(rng.choices('abc', k=rng.randint(1, 4))), float(rng.random() < .5)) for _ in range(rng.randint(1, 6))]
    q = graph(*trials)
    for letter in 'abc':
      through = [r for said, r in trials if letter in said]
      assert q.potential.get((letter,)) == (sum(through) / len(through) if through else None)
    failing = total = 0
    for here in ('^', *'abc'):
      ways = {w[i + 1] for said, _ in trials for w in [f'^{said}'] for i in range(len(said)) if w[i] == here}
      if len(ways) > 1:
        for way in ways:
          total += 1
          failing += not any(r for said, r in trials if here + way in f'^{said}')
    right = [said for said, r in trials if r]
    ratio, chains = failing / max(total, 1), len({*right}) / max(len(right), 1)
    assert task_score(q, mix=.7) == pytest.approx(.7 * ratio + .3 * chains)


# ---- the curriculum ----------------------------------------------------------------------------------------------------

class Tasks:
  def tasks(self, split):
    return [Task(f'{split}{i}') for i in range(4 if split == 'train' else 0)]


def test_tasks_come_in_proportion():
  """Scores 1/2 (fails either way), 0 (always one failure), 1/4 (one way that succeeds) and never tried."""
  c = topo_curate(env=Tasks(), labels=('action',), least=.05, unseen=.2)
  state, tasks = c.sample(c.init(), 3, 0)
  ids = [t.id for t in tasks]
  assert len({*ids}) == 3                                   # no task twice in a step
  state = c.update(state, [group(('a', 0.), ('b', 0.), id=ids[0]), group(('a', 0.), id=ids[1]), group(('a', 1.), ('a', 1.), id=ids[2]),
                           group(('a', 1.), id='another')])
  assert [state['seen'][i][1] for i in ids] == [.5, 0., .25] and set(state['seen']) == {*ids}
  never = next(f'train{i}' for i in range(4) if f'train{i}' not in ids)
  want = {ids[0]: .5, ids[1]: .05, ids[2]: .25, never: .2}
  came = dict.fromkeys(want, 0)
  frozen = json.dumps(state)
  for k in range(4000):
    _, (task,) = c.sample(dict(state, drawn=k), 1, 0)
    came[task.id] += 1
  assert came == pytest.approx({k: 4000 * v for k, v in want.items()}, abs=150)
  assert json.dumps(state) == frozen                        # a value: sampling changes nothing


def test_the_state_goes_on():
  """It passes through JSON, the draw depends on it and the seed alone, and a group without an ended episode leaves the score."""
  c = topo_curate(env=Tasks(), seed=1)
  state, first = c.sample(c.init(), 2, 0)
  state = c.update(state, [group(('a', 1.), id=first[0].id)])
  again = json.loads(json.dumps(state))
  assert c.update(again, [group(('a', 1.), id=first[0].id, end=3)]) == again == state
  assert c.sample(again, 3, 5) == c.sample(state, 3, 9)
  assert [t.id for t in topo_curate(env=Tasks(), seed=1).sample(c.init(), 2, 0)[1]] == [t.id for t in first]
  assert len(c.sample(state, 9, 0)[1]) == 9                 # more than there are: some twice


def test_faults():
  with pytest.raises(ValueError, match="no tasks in split 'test'"):
    topo_curate(env=Tasks(), split='test')
  for kw in (dict(least=0.), dict(unseen=-1.), dict(mix=2.)):
    with pytest.raises(ValueError, match='above 0 and mix between 0 and 1'):
      topo_curate(env=Tasks(), **kw)
