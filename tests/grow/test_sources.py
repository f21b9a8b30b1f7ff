"""Demonstrations and files as groups: what is trained, in what order, from where a run goes on."""

import functools
import itertools
import json

import numpy as np
import pytest

from rlx import walk
from rlx.contexts.append import append
from rlx.contexts.window import window
from rlx.grow import demonstrations, labels, sources, tokenizer
from rlx.learn import rows
from rlx.learn.pack import Bucket, pack
from rlx.types import Obs, Step, Task

TOK = tokenizer.bpe(texts=['count one two three four five six done , .'] * 4, size=300)


class Counting:
  """The speaker counts to the task's number, one a turn; what it says is echoed."""
  def tasks(self, split):
    return [Task(f'{split}-{n}', n) for n in (1, 2, 3)]

  def reset(self, task, seed):
    return (task.data, 0), Obs(f'count {task.data}', {'state': 'first'})

  def step(self, state, action):
    n, at = state
    at += 1
    end = 0 if at < n else 3 if action.text == ' fail' else 1
    obs = f' , heard{action.text}' if at < n else ''
    return (n, at), Step(obs, {'task': float(end == 1)}, end, {'turn': at}, {'valid': 1.}, {'state': f'at {at}'})

  def expert(self, task, seed):
    for i in range(task.data):
      heard = yield f' {seed % 10} {i}'
      assert heard == f' , heard {seed % 10} {i}'


class Quitting(Counting):
  def __init__(self, turns):
    self.turns = turns

  def expert(self, task, seed):
    for _ in range(self.turns):
      yield ' one'


class Mute(Counting):
  expert = property()      # hasattr is False


def take(source, n):
  return list(itertools.islice(source, n))


def said(group):
  return [n.text for n in group.nodes]


# ---- one demonstration -------------------------------------------------------------------------------------------------

def test_a_transcript():
  turns, answers = demonstrations.transcript(Counting(), Task('t', 2), 5)
  assert turns == [('count 2', ' 5 0'), (' , heard 5 0', ' 5 1')]
  assert [label for label, _ in answers] == [{'state': 'first'}, {'state': 'at 1'}] and [s.end for _, s in answers] == [0, 1]


@pytest.mark.parametrize('turns', [0, 1])
def test_an_expert_that_stops_too_early(turns):
  with pytest.raises(ValueError, match="the expert of task 't' stopped before its episode ended"):
    demonstrations.transcript(Quitting(turns), Task('t', 2), 0)


def test_a_demonstration_is_trained_on_what_the_expert_said():
  g = demonstrations.demonstrate(Counting(), Task('t', 3), TOK, append, 7)
  assert said(g) == [' 7 0', ' 7 1', ' 7 2'] and [n.parent for n in g.nodes] == [-1, 0, 1] and [n.end for n in g.nodes] == [0, 0, 1]
  assert [n.fresh for n in g.nodes] == [True, False, False]
  assert [tuple(n.ids) for n in g.nodes] == [TOK.encode(t) for t in said(g)]
  assert [tuple(n.context) for n in g.nodes] == [TOK.encode(t) for t in ('count 3', ' , heard 7 0', ' , heard 7 1')]
  assert [n.label for n in g.nodes] == [dict(state=s, turn=i, source=1) for i, s in enumerate(('first', 'at 1', 'at 2'), 1)]
  assert g.nodes[-1].reward == dict(task=1.) and g.nodes[0].metrics == dict(valid=1.)
  made, = pack([g], rows=rows.paths, buckets=(Bucket(1, 64, 4, 1),), label_names=('source',), intern=labels.intern)
  t = made.batch.tokens
  assert t.ids[0, t.mask[0]].tolist() == [i for n in g.nodes for i in n.ids]
  assert not t.logp.any() and made.batch.nodes.label['source'].tolist() == [1, 1, 1, 0]
  whole = 'count 3 7 0 , heard 7 0 7 1 , heard 7 1 7 2'
  assert TOK.decode(t.ids[0, t.segment[0] == 0].tolist()) == whole


def test_a_demonstration_in_a_window():
  """A context that forgets starts a row, and repeats what was said by its ids."""
  g = demonstrations.demonstrate(Counting(), Task('t', 3), TOK, functools.partial(window, k=1), 7)
  assert [n.fresh for n in g.nodes] == [True, False, True]
  assert TOK.decode(g.nodes[2].context) == 'count 3 , heard 7 0 7 1 , heard 7 1'
  assert walk.ids_before(g.nodes, 2) == g.nodes[2].context
  assert [r.nodes for r in rows.paths(g)] == [[0, 1], [2]]


def test_a_demonstration_that_fails_is_not_trained():
  class Failing(Counting):
    def expert(self, task, seed):
      yield ' fail'
  g = demonstrations.demonstrate(Failing(), Task('t', 1), TOK, append, 0)
  assert g.nodes[0].end == 3 and rows.paths(g) == []


# ---- sources -----------------------------------------------------------------------------------------------------------

def test_rollouts_never_end():
  calls = []
  def grow():
    calls.append(len(calls))
    yield from [f'{calls[-1]}{c}' for c in 'ab']
  assert take(sources.rollout(grow=grow), 5) == ['0a', '0b', '1a', '1b', '2a']


def expert(**kw):
  return sources.expert(env=Counting(), tokenizer=TOK, context=append, **kw)


def test_experts_play_every_task_and_then_pass_over_the_same_episodes():
  groups = take(expert(count=5, seed=3), 20)
  assert [g.index for g in groups] == list(range(20))
  first = [g.nodes for g in groups[:5]]
  assert len({g.task.id for g in groups[:3]}) == 3 and len({said(g)[0][:2] for g in groups[:5]}) == 5, 'another seed each time'
  orders = [[first.index(g.nodes) for g in groups[i:i + 5]] for i in (5, 10, 15)]
  assert all(sorted(o) == [0, 1, 2, 3, 4] for o in orders) and len({tuple(o) for o in orders}) > 1, 'each pass in its own order'
  assert [g.task for g in take(expert(count=5, seed=3), 5)] == [g.task for g in groups[:5]]
  assert [g.task for g in take(expert(count=5, seed=4), 9)] != [g.task for g in groups[:9]]


@pytest.mark.parametrize('start', [0, 2, 5, 7, 13])
def test_experts_go_on_where_a_run_was_interrupted(start):
  whole, rest = take(expert(count=5), 16), take(expert(count=5, start=start), 16 - start)
  assert [(g.index, g.task, said(g)) for g in rest] == [(g.index, g.task, said(g)) for g in whole[start:]]


def test_an_environment_without_an_expert():
  with pytest.raises(ValueError, match="the environment Mute has no scripted expert: source 'expert' cannot be used"):
    next(sources.expert(env=Mute(), tokenizer=TOK, context=append))


def lines(path, *values):
  path.write_text('\n'.join(v if isinstance(v, str) else json.dumps(v) for v in values) + '\n')
  return str(path)


def test_jsonl_demonstrations(tmp_path):
  path = lines(tmp_path / 'a.jsonl', *(dict(prompt=f'count {n}', response=f' {n} .') for n in range(5)), '', '  ')
  groups = take(sources.jsonl(path=path, tokenizer=TOK, seed=1), 15)
  assert [g.index for g in groups] == list(range(15))
  passes = [[g.task.id for g in groups[i:i + 5]] for i in (0, 5, 10)]
  assert all(sorted(p) == [f'{path}:{n}' for n in range(1, 6)] for p in passes) and len(set(map(tuple, passes))) > 1
  g = next(g for g in groups if g.task.id == f'{path}:3')
  n, = g.nodes
  assert (n.obs, n.text, tuple(n.context), tuple(n.ids)) == ('count 2', ' 2 .', TOK.encode('count 2'), TOK.encode(' 2 .'))
  assert n.sampled.all() and not n.logp.any() and n.end == 1 and n.fresh
  assert n.label == dict(chosen=1, source=1) and n.reward == dict(task=1.)
  rest = take(sources.jsonl(path=path, tokenizer=TOK, seed=1, start=7), 8)
  assert [(g.index, g.task.id) for g in rest] == [(g.index, g.task.id) for g in groups[7:]]


def test_jsonl_pairs_and_other_keys(tmp_path):
  path = lines(tmp_path / 'b.jsonl', dict(q='count 2', yes=' one two', no=' three'))
  g = next(sources.jsonl(path=path, tokenizer=TOK, prompt='q', chosen='yes', rejected='no'))
  assert said(g) == [' one two', ' three'] and [n.label['chosen'] for n in g.nodes] == [1, 0]
  assert [n.reward['task'] for n in g.nodes] == [1, 0] and [n.parent for n in g.nodes] == [-1, -1]
  assert g.nodes[0].context == g.nodes[1].context and g.task.data['yes'] == ' one two'
  assert len(rows.paths(g)) == 2


@pytest.mark.parametrize(('line', 'what'), [
    ('{"prompt": "a", "response": "b"', 'JSONDecodeError'), (dict(prompt='a'), "KeyError 'response'"),
    (dict(response='a'), "KeyError 'prompt'"), (dict(prompt='a', chosen='b'), "KeyError 'rejected'"),
    (dict(prompt='a', response=3), 'TypeError'), (dict(prompt=None, response='a'), 'TypeError'), ([1, 2], 'TypeError')])
def test_jsonl_lines_that_cannot_be_read(tmp_path, line, what):
  path = lines(tmp_path / 'c.jsonl', dict(prompt='a', response='b'), line)
  needed = "needed are 'prompt' and 'response', or 'prompt', 'chosen' and 'rejected'"
  with pytest.raises(ValueError, match=f"c.jsonl' line 2: {what}.*; {needed}"):
    next(sources.jsonl(path=path, tokenizer=TOK))


def test_an_empty_file(tmp_path):
  with pytest.raises(ValueError, match='holds no line'):
    next(sources.jsonl(path=lines(tmp_path / 'd.jsonl', ''), tokenizer=TOK))
