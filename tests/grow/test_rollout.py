"""From tasks to trees: what is sampled, read, encoded and kept, for every kind of wish; figures are worked out by hand.

Game with the word 'dcbadcba': the prompt 'dcbadcba:' has 9 ids, an observation such as ' 8.' 3; without stops an action has 8.
"""

import asyncio
import functools
import threading
import time
from typing import NamedTuple

import jax
import numpy as np
import pytest

from rlx import tree, walk
from rlx.contexts.window import window
from rlx.curricula.uniform import uniform
from rlx.explorers.flat import flat
from rlx.grow import engine as engines
from rlx.grow import forest, rollout
from rlx.learn import rows
from rlx.types import Cut, Expand, Explorer, Obs, Probe, Score, Step
from tests.grow import game
from tests.grow.game import Game, grow, scripted

LONG = Game(words=('dcbadcba', 'abdc', 'cbadcbad'))
NEVER = engines.Stop()
STRINGS = engines.Stop(strings=('ab', '<d', '5c', 'd4'))


def prefix(g, i):
  """All ids up to the end of step i, as the model read them."""
  return [*walk.ids_before(g.nodes, i), *g.nodes[i].ids]


def shape(g):
  return [n.parent for n in g.nodes], [n.end for n in g.nodes]


# ---- log-probabilities -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('temperature', [1., .7])
@pytest.mark.parametrize('case', ['turns', 'window context', 'stop strings', 'forks', 'steps'])
def test_log_probabilities_are_those_of_the_trained_forward(case, temperature):
  """Across turns, on packed rows, to 1e-4; `steps` packs each step with all that was said before it."""
  deep = scripted([Expand(width=2)], lambda v: [Expand(node=0, at=3, width=2), Expand(node=1, at=1)])
  kw = {'window context': dict(context=functools.partial(window, k=1)), 'forks': dict(explorer=deep)}.get(case, {})
  e = game.engine(STRINGS, turn=20) if case == 'stop strings' else game.engine()
  groups = grow(e, n=4, sampling=dict(temperature=temperature), **kw)
  gap, count = game.gap(groups, temperature=temperature, by=rows.steps if case == 'steps' else rows.paths)
  assert gap < 1e-4 and count >= 4 * 2 * 3
  assert max(len(n.ids) for g in groups for n in g.nodes) > 4
  assert game.wrong_gap(groups, temperature=temperature + .3) > .1, 'another temperature would have been noticed'
  if case == 'window context':
    assert any(n.fresh for g in groups for n in g.nodes if n.parent >= 0)


def test_a_branch_at_a_temperature_of_its_own_says_so():
  """Its tokens carry the temperature, 1 for greedy ones; nobody else's do; an explorer that was to write no such numbers is stopped."""
  wishes = lambda v: [Expand(node=0, at=3, sampling=dict(temperature=.5)), Expand(node=1, sampling=dict(temperature=0.))]
  groups = grow(game.engine(NEVER), n=2, explorer=scripted([Expand(limit=1), Expand(limit=1)], wishes), streams=('temperature',))
  said = [n.stream.get('temperature') for g in groups for n in forest.cut(g).nodes]
  assert {None if t is None else t[0] for t in said} == {None, np.float32(.5), np.float32(1.)}
  for g in groups:
    for i, n in enumerate(g.nodes):
      if 'temperature' in n.stream:
        start = n.stem[1] if n.stem else 0
        assert not n.stream['temperature'][:start].any() and len(set(n.stream['temperature'][start:].tolist())) == 1
        by_hand = game.logp_by_hand(prefix(g, i), temperature=float(n.stream['temperature'][-1]))
        np.testing.assert_allclose(n.logp[start:], by_hand[start - len(n.ids):], atol=1e-4)
  with pytest.raises(ValueError, match='a temperature of its own: mark its factory'):
    grow(n=1, explorer=scripted([Expand(sampling=dict(temperature=.5))]), streams=())


@pytest.mark.parametrize('cut', [dict(top_k=2), dict(top_p=.5), dict(min_p=.1)])
def test_a_branch_that_truncates_says_so(cut):
  """An explorer that was to write no such numbers is stopped, unless the run truncates anyway."""
  explorer, name = scripted([Expand(sampling=cut)]), next(iter(cut))
  with pytest.raises(ValueError, match=f'samples with a {name} of its own: mark its factory.*sampler_logp'):
    grow(n=1, explorer=explorer, streams=())
  for kw in (dict(streams=('sampler_logp',)), dict(streams=(), sampling=dict(temperature=1., top_k=3)), {}):
    g, = grow(n=1, explorer=explorer, **kw)
    assert any((n.stream['sampler_logp'] > n.logp + 1e-3).any() for n in g.nodes)


def test_truncated_sampling_keeps_both_log_probabilities():
  groups = grow(n=4, sampling=dict(temperature=.7, top_k=3))
  assert game.gap(groups, temperature=.7)[0] < 1e-4
  for g in groups:
    for n in g.nodes:
      assert (n.stream['sampler_logp'] >= n.logp - 1e-6).all() and (n.stream['sampler_logp'] > n.logp + .01).any()
  plain = grow(n=4, sampling=dict(temperature=.7))
  assert all((n.stream['sampler_logp'] == n.logp).all() for g in plain for n in g.nodes)


# ---- tokens in, tokens out -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('stop', [game.STOP, STRINGS], ids=['ids', 'strings'])
def test_every_trained_id_was_drawn_and_nothing_is_tokenised_twice(stop, monkeypatch):
  """The actions that the sampler said are the ids of the steps, of the environment's actions and of the loss mask; only
  observations are encoded, each distinct text once."""
  said, seen, speak = [], [], engines.speak

  def listen(engine, requests):
    out = speak(engine, requests)
    said.extend(tuple(s.ids) for s in out)
    return out
  monkeypatch.setattr(engines, 'speak', listen)

  class Watched(Game):
    def step(self, state, action):
      seen.append((action.text, action.ids))
      return super().step(state, action)
  tok, encoded = game.counted()
  groups = grow(game.engine(stop, tok=tok, turn=20 if stop.strings else 8), n=4, env=Watched())
  nodes = [n for g in groups for n in g.nodes]
  assert len(nodes) == 4 * 2 * 3 and sorted(map(tuple, (n.ids for n in nodes))) == sorted(said)
  assert sorted((n.text, tuple(n.ids)) for n in nodes) == sorted(seen)
  assert sorted(encoded) == sorted({n.obs for n in nodes}) and len(encoded) < len(nodes)
  assert any(tuple(tok.encode(n.text)) != tuple(n.ids) for n in nodes), 'encoding again would have changed something'
  for n in nodes:
    held = [x for x in STRINGS.strings if x in n.text] if stop.strings else []
    assert len(held) <= 1 and (not held or n.text.index(held[0]) > len(n.text) - 4), 'nothing follows a stop string'
    assert ('unfinished_turns' in n.metrics) == (not held if stop.strings else n.ids[-1] != 1)
  t = game.packed(groups).batch.tokens
  assert (t.mask == t.sampled).all() and int(t.mask.sum()) == sum(map(len, said))
  assert sorted(t.ids[t.mask]) == sorted(x for s in said for x in s)
  observed = t.ids[(t.segment >= 0) & ~t.sampled]
  assert sorted(observed) == sorted(i for g in groups for e in walk.episodes(g) for n in e.nodes for i in tok.encode(n.obs))


def test_an_episode_never_reads_its_past_and_answers_share_their_prompt():
  """Prompt 9, observations 3: three answers of three turns read 9 + 3 * 2 * 3 = 27; if the prompt is too short to copy, 18 more."""
  e = game.engine()
  grow(e, n=1, env=LONG, explorer=flat(width=3))
  assert e.read == 27
  e = game.engine(copy_from=10)
  grow(e, n=1, env=LONG, explorer=flat(width=3))
  assert e.read == 45


def test_a_window_reads_what_it_shows_again():
  """k = 1, no stops: turn 2 shows prompt, obs 1, action 1, obs 2: of 9 + 3 + 8 + 3 ids, 9 are warm and 14 are read."""
  e = game.engine(NEVER)
  groups = grow(e, n=1, env=LONG, explorer=flat(width=1), context=functools.partial(window, k=1))
  assert [(len(n.context), n.fresh) for n in groups[0].nodes] == [(9, True), (3, False), (23, True)]
  assert e.read == 9 + 3 + 14
  one, two, three = groups[0].nodes
  assert three.context == [*one.context, *game.TOK.encode(' 8.'), *two.ids, *game.TOK.encode(' 8.')]


def test_branches_share_a_warm_prefix():
  """No stops. The trunk reads 9 + 3 + 3. Two branches behind step 0 find their 20 ids warm, and so does one that leaves step 1 after
  4 ids: each reads the last id again, for its logits, and the next observation, 3."""
  e = game.engine(NEVER)
  g, = grow(e, n=1, env=LONG, explorer=scripted([Expand()], [Expand(node=0, width=2), Expand(node=1, at=4)]))
  assert shape(g) == ([-1, 0, 1, 0, 0, 0, 3, 4, 5], [0, 0, 1, 0, 0, 0, 1, 1, 1])
  assert e.read == (9 + 3 + 3) + 3 * (1 + 3)


# ---- who disturbs whom -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('limits', [dict(slots=4, buckets=()), dict(slots=7, buckets=(2, 4)), dict(slots=16, buckets=())],
                         ids=['4', '7', '16'])
@pytest.mark.parametrize('explorer', ['flat', 'forks'])
def test_slots_and_buckets_do_not_matter(limits, explorer):
  """More prompts than slots, or fewer: the same trees, but for the order in which steps were taken."""
  forks = scripted([Expand()], [Expand(node=0, at=2, width=2), Expand(node=1, suffix='ab')])
  explorer = dict(flat=flat(width=3), forks=forks)[explorer]
  game.assert_same(grow(n=5, explorer=explorer), grow(game.engine(**limits), n=5, explorer=explorer))


def test_other_prompts_and_their_order_do_not_matter():
  """A prompt is named by its number in the run; who else is grown, and when, changes nothing."""
  tasks = Game().tasks('train')
  whole = grow(tasks=tasks[:5], explorer=flat(width=3))
  shuffled = grow(game.engine(slots=4, buckets=()), [tasks[3], tasks[4], tasks[2], tasks[0]], explorer=flat(width=3))
  game.assert_same(whole[2:3], shuffled[2:3])
  alone = grow(tasks=[tasks[2]], first=2, explorer=flat(width=3))
  game.assert_same(whole[2:3], alone)
  assert grow(tasks=[tasks[2]], first=3, explorer=flat(width=3))[0].nodes[0].ids != alone[0].nodes[0].ids


def test_two_runs_with_one_key_are_equal_to_the_bit():
  """Also when the first was broken off in the middle, once the engine is refreshed, as it is before every step."""
  e, p = game.engine(slots=4, buckets=()), game.plan(explorer=flat(width=3))
  made = []
  for full in (True, False, True):
    engines.refresh(e, game.params())
    run = rollout.rollout({'policy': e}, Game().tasks('train')[:4], plan=p, key=game.KEY)
    if not full:
      next(run)
      run.close()
    else:
      made.append(list(run))
  a, b = made
  assert [g.index for g in a] == [g.index for g in b]
  for x, y in zip(a, b, strict=True):
    assert shape(x) == shape(y) and [n.ids for n in x.nodes] == [n.ids for n in y.nodes]
    for m, n in zip(x.nodes, y.nodes, strict=True):
      np.testing.assert_array_equal(m.logp, n.logp)
  other = grow(e, n=4, explorer=flat(width=3), key=jax.random.key(8))
  assert [n.ids for n in other[0].nodes] != [n.ids for n in a[0].nodes]


def test_the_seed_of_an_environment_comes_from_key_and_prompt():
  seeds = {}

  class Seeded(Game):
    def reset(self, task, seed):
      seeds.setdefault(task.id, []).append(seed)
      return super().reset(task, seed)
  for k in (7, 7, 8):
    grow(n=2, env=Seeded(), explorer=flat(width=1), key=jax.random.key(k))
  (a, b, c), (d, _, _) = seeds['train0'], seeds['train1']
  assert a == b and len({a, c, d}) == 3


# ---- explorers ---------------------------------------------------------------------------------------------------------------

def test_everything_an_explorer_can_wish():
  """The trunk 0-1-2; a score; two branches leave 1 after 2 ids (3, 4), a forced text below 0 (5), the friend below 0 (6), each for one
  step; then all four go on (7 to 10).

        0                  ids: 0, 1, 2: 8 each, no stops
       1 3 4 5 6           3, 4: 2 of step 1's and 6 of their own; 5: 2 forced and 8; 6: 8, none of the policy's
       2 7 8 9 10          8 each
  """
  asked = []

  def words(pool, wanted):
    assert set(pool) == {'policy', 'friend'}
    asked.append([(v.task.id, n) for v, n in wanted])
    return [len(v.nodes[n].ids) / 2 for v, n in wanted]

  def third(view):
    assert view.value == {'words': {0: 4., 1: 4., 2: 4.}} and view.running == 0
    return [Expand(node=1, at=2, width=2, limit=1), Expand(node=0, suffix='ab ', limit=1, sampling=dict(temperature=.5)),
            Expand(node=0, by='friend', limit=1)]

  pool = {'policy': game.engine(NEVER), 'friend': game.engine(NEVER, seed=1)}
  explorer = scripted([Expand()], [Score('words', [0, 1, 2])], third, [Expand(node=n) for n in (3, 4, 5, 6)])
  groups = grow(pool, n=2, explorer=explorer, scorers=dict(words=words), env=LONG)
  assert asked == [[(t, n) for t in ('train0', 'train1') for n in (0, 1, 2)]], 'one call for both prompts'
  for g in groups:
    assert shape(g) == ([-1, 0, 1, 0, 0, 0, 0, 3, 4, 5, 6], [0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1])
    assert [len(n.ids) for n in g.nodes] == [8, 8, 8, 8, 8, 10, 8, 8, 8, 8, 8]
    assert [n.by for n in g.nodes] == ['policy'] * 6 + ['friend'] + ['policy'] * 4
    assert [n.stem for n in g.nodes] == [None] * 3 + [(1, 2)] * 2 + [None] * 6
    assert [int(n.sampled.sum()) for n in g.nodes] == [8, 8, 8, 8, 8, 8, 0, 8, 8, 8, 8]
    one, three, four, five, six = (g.nodes[i] for i in (1, 3, 4, 5, 6))
    for n in (three, four):
      assert n.ids[:2] == one.ids[:2] and n.context == one.context
      np.testing.assert_array_equal(n.logp[:2], one.logp[:2])
    assert three.ids != four.ids
    assert five.text.startswith('ab ') and five.sampled.tolist() == [False] * 2 + [True] * 8 and not five.logp[:2].any()
    np.testing.assert_allclose(five.logp[2:], game.logp_by_hand(prefix(g, 5), temperature=.5)[-8:], atol=1e-4)
    np.testing.assert_allclose(g.nodes[9].logp, game.logp_by_hand(prefix(g, 9))[-8:], atol=1e-4)
    assert not six.logp.any() and six.label['agent'] == 'friend' and all('agent' not in n.label for n in g.nodes if n is not six)
    theirs = game.logp_by_hand(prefix(g, 6), seed=1)[-8:]
    assert theirs.mean() > game.logp_by_hand(prefix(g, 6))[-8:].mean() + .5, 'the friend said what the friend finds likely'
    np.testing.assert_allclose(g.nodes[10].logp, game.logp_by_hand(prefix(g, 10))[-8:], atol=1e-4)
  cut = forest.cut(groups[0])
  assert shape(cut) == ([-1, 0, 1, 2, 1, 1, 0, 0, 4, 5, 6, 7], [0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1])
  assert [len(n.ids) for n in cut.nodes] == [8, 2, 6, 8, 6, 6, 10, 8, 8, 8, 8, 8]
  b = game.packed(groups[:1]).batch
  # five sequences: 0-1-2, its two forks, the forced one (two ids more), the friend's: prompt 9, observations 3 and 3, actions
  assert int(b.tokens.position.max()) + 1 == 9 + 8 + 3 + 10 + 3 + 8
  assert int((b.tokens.segment >= 0).sum()) == 5 * (9 + 8 + 3 + 8 + 3 + 8) + 2
  assert int(b.tokens.sampled.sum()) == 24 + 24 + 24 + 24 + 16
  assert int(b.tokens.mask.sum()) == 8 + 2 + 6 + 8 + 6 + 6 + 8 + 0 + 4 * 8
  owned = np.bincount(b.tokens.node[b.tokens.mask])
  assert owned.tolist() == [8, 2, 6, 8, 6, 6, 8, 0, 8, 8, 8, 8]


def test_beam_search_abandons_the_losers():
  """Two candidates a turn, the likelier one goes on: 0 1 | 2 3 | 4 5, of which the last two are episodes."""
  def best(view):
    pair = range(len(view.nodes) - 2, len(view.nodes))
    return [Expand(node=max(pair, key=lambda n: view.nodes[n].logp.sum()), width=2, limit=1)]
  g, = grow(n=1, explorer=scripted([Expand(width=2, limit=1)], best, best))
  first = int(g.nodes[1].logp.sum() > g.nodes[0].logp.sum())
  second = 2 + int(g.nodes[3].logp.sum() > g.nodes[2].logp.sum())
  assert shape(g) == ([-1, -1, first, first, second, second], [0, 0, 0, 0, 1, 1])
  n = game.packed([g, *grow(n=3)[1:]]).batch
  ended = tree.ended(n.nodes)
  lived = tree.through(ended, n.nodes.parent)
  assert np.flatnonzero(lived[:6]).tolist() == sorted((first, second, 4, 5))
  assert sorted(set(n.tokens.node[n.tokens.mask]) & set(range(6))) == sorted((first, second, 4, 5))


def test_a_fork_of_a_fork():
  """1 leaves 0 after 3 ids; 2 leaves 1 after 5, in its own part; 3 leaves 1 after 2, in what is really 0's."""
  e = game.engine(NEVER)
  explorer = scripted([Expand(limit=1)], [Expand(node=0, at=3, limit=1)],
                      [Expand(node=1, at=5, limit=1), Expand(node=1, at=2, limit=1)], [Expand(node=i) for i in range(4)])
  groups = grow(e, n=1, env=Game(turns=2, words=LONG.words), explorer=explorer)
  for g in groups:
    assert shape(g) == ([-1, -1, -1, -1, 0, 1, 2, 3], [0, 0, 0, 0, 1, 1, 1, 1])
    assert [n.stem for n in g.nodes[:4]] == [None, (0, 3), (1, 5), (1, 2)]
    assert all(len(n.ids) == 8 for n in g.nodes), 'a branch has no more room than the step it leaves'
    a, b, c, d = (n.ids for n in g.nodes[:4])
    assert a[:3] == b[:3] and b[:5] == c[:5] and a[:2] == d[:2] and len({tuple(x) for x in (a, b, c, d)}) == 4
    cut = forest.cut(g)
    assert shape(cut)[0] == [-1, 0, 1, 1, 3, 3, 0, 2, 4, 5, 6]
    assert [len(n.ids) for n in cut.nodes] == [2, 1, 5, 2, 3, 3, 6, 8, 8, 8, 8]
  assert game.gap(groups)[0] < 1e-4
  assert e.read == 9 + (1 + 1 + 1) + 4 * 3, 'prompt, the last id of each stem, observations'


def test_a_fork_of_what_a_friend_said():
  pool = {'policy': game.engine(NEVER), 'friend': game.engine(NEVER, seed=1)}
  g, = grow(pool, n=1, explorer=scripted([Expand(by='friend', limit=1)], [Expand(node=0, at=3)]))
  assert g.nodes[1].sampled.tolist() == [False] * 3 + [True] * 5 and len(g.nodes[1].ids) == 8
  assert g.nodes[1].logp.astype(bool).tolist() == g.nodes[1].sampled.tolist() and g.nodes[1].by == 'policy'
  np.testing.assert_allclose(g.nodes[1].logp[3:], game.logp_by_hand(prefix(g, 1))[-5:], atol=1e-4)


def test_a_stop_string_across_a_fork_and_behind_a_forced_text():
  """'<' is forced; where the likeliest id x follows, '<x' ends the action. Without the stop, it goes on; a fork behind '<' stops too."""
  env, likeliest = Game(turns=1), int(game.logits_by_hand(game.TOK.encode('ab:<'))[-1, 2:].argmax()) + 2
  stop = '<' + game.TOK.decode([likeliest])
  g, = grow(game.engine(engines.Stop(strings=(stop,))), n=1, env=env, explorer=scripted([Expand(suffix='<', width=16)]))
  assert 0 < sum(n.text.startswith(stop) for n in g.nodes) < 16
  for n in g.nodes:
    assert (n.text == stop and n.sampled.tolist() == [False, True] if n.text.startswith(stop) else len(n.ids) > 2)
    assert ('unfinished_turns' in n.metrics) == (stop not in n.text)
  free, = grow(game.engine(engines.Stop(strings=('::::::',))), n=1, env=env,
               explorer=scripted([Expand(suffix='<')], [Expand(node=0, at=1, width=16)]))
  held, = grow(game.engine(engines.Stop(strings=(stop, '::::::'))), n=1, env=env,
               explorer=scripted([Expand(suffix='<')], [Expand(node=0, at=1, width=16)]))
  assert any(n.text.startswith(stop) for n in free.nodes[1:])
  for a, b in zip(free.nodes[1:], held.nodes[1:], strict=True):
    assert len(a.ids) == 9 and a.ids[:len(b.ids)] == b.ids
    assert (b.text == stop) == a.text.startswith(stop)


def test_a_score_stands_at_the_next_call_and_all_of_them_together():
  calls = []

  def look(view):
    calls.append({k: dict(v) for k, v in view.value.items()})
    return [Score('b', [0])] if len(calls) == 1 else []
  scorers = dict(a=lambda pool, asked: [1. for _ in asked], b=lambda pool, asked: [2. + len(v.nodes) for v, _ in asked])
  grow(n=1, explorer=scripted([Expand(limit=1)], [Score('b', [0]), Score('a', [0])], look, look), scorers=scorers)
  assert calls == [{'b': {0: 3.}, 'a': {0: 1.}}, {'b': {0: 3.}, 'a': {0: 1.}}]


@pytest.mark.parametrize('wishes, message', [
    ([Expand(by='stranger')], r"lets 'stranger' speak; there are \['policy'\]"),
    ([Score('nobody', [0])], r"asks for the score 'nobody'; there are \['known'\]"),
    ([Score('known', [0, 9])], 'names step 9; the tree has 3 steps'),
    ([Expand(node=3)], 'names step 3; the tree has 3 steps'),
    ([Expand(node=-2)], 'names step -2; the tree has 3 steps'),
    ([Expand(node=2)], 'step 2 has ended: nothing grows below it'),
    ([Expand(node=0, at=8)], 'step 0 has 8 ids: no branch at 8'),
    ([Expand(node=0, at=0)], 'step 0 has 8 ids: no branch at 0'),
    ([Expand(at=1)], 'the prompt is no action: no branch at 1'),
    ([Expand(limit=0)], 'grow for 0 steps; limit is at least 1'),
    ([Expand(sampling=dict(temprature=1.))], "sets 'temprature' for sampling; there are .*temperature"),
    (['grow'], "returns Expand, Score and Cut, not 'grow'")])
def test_a_wish_that_cannot_be_is_an_error(wishes, message):
  with pytest.raises(ValueError, match=message):
    grow(game.engine(NEVER), n=1, explorer=scripted([Expand()], wishes), scorers=dict(known=lambda pool, asked: [0.] * len(asked)))


@pytest.mark.parametrize('begin, nodes', [([Expand(limit=1), Expand()], [0]), ([Expand(limit=1), Expand()], [1]),
                                          ([Expand(limit=1), Expand(limit=1)], [0, 0])])
def test_paths_are_cut_off_once_and_when_nothing_grows(begin, nodes):
  with pytest.raises(ValueError, match='cuts paths off while others of the prompt still grow, or one twice'):
    grow(game.engine(NEVER), n=1, explorer=scripted(begin, [Cut(nodes)]))


def test_growing_nothing_is_a_finished_prompt():
  groups = grow(n=2, explorer=scripted([]))
  assert [(g.nodes, g.metrics) for g in groups] == [([], {})] * 2
  assert grow(tasks=[]) == []


def test_an_explorer_that_asks_for_more_than_the_slots_hold():
  """Eleven branches in four slots wait for their turn; a second model with fewer slots than the first."""
  g, = grow(game.engine(slots=4, buckets=()), n=1, explorer=scripted([Expand(width=11)]))
  assert len(list(walk.episodes(g))) == 11 and {n.branch for n in g.nodes} == set(range(11))
  pool = {'policy': game.engine(), 'friend': game.engine(seed=1, slots=4, buckets=())}
  g, = grow(pool, n=1, explorer=scripted([Expand(width=6, by='friend'), Expand(width=3)]))
  assert len(list(walk.episodes(g))) == 9 and sum(n.by == 'friend' for n in g.nodes) == 18


# ---- no room ---------------------------------------------------------------------------------------------------------

def full(on_full, **kw):
  """No stops, six turns, slots of 40: before turn t stand 9 + 11 t ids, and 8 must follow: 31 + 8 fits, 42 + 8 does not."""
  return grow(game.engine(NEVER, width=40, on_full=on_full), n=1, env=Game(turns=6, words=LONG.words), explorer=flat(width=2), **kw)[0]


def test_on_full_end():
  g = full('end')
  assert shape(g) == ([-1, -1, 0, 1, 2, 3], [0, 0, 0, 0, 2, 2])
  assert g.metrics == {'full': 2.}
  assert [len(prefix(g, i)) for i in (4, 5)] == [39, 39]


def test_what_an_environment_pays_an_episode_that_ran_out_of_room():
  class Strict(Game):
    def cut(self, state):
      return Step('', {'task': -.25}, 2, metrics={'cut': 1.})
  plain, paid = full('end'), grow(game.engine(NEVER, width=40, on_full='end'), n=1, env=Strict(turns=6, words=LONG.words), explorer=flat(width=2))[0]
  for i, (a, b) in enumerate(zip(plain.nodes, paid.nodes, strict=True)):
    extra = -.25 if i in (4, 5) else 0.
    assert b.reward['task'] == a.reward['task'] + extra and b.metrics.get('cut', 0.) == (i in (4, 5))


@pytest.mark.parametrize('slots', [1, 2])
def test_a_step_ends_only_when_no_branch_waits_behind_it(slots):
  """The forced text has no room behind step 0, the plain branch has; in one slot it is still in line when the other is cut off."""
  paid = []
  def reward(episode):
    paid.append(list(episode.steps))
    return {'extra': [0.] * len(episode.steps)}
  def run(*wishes):
    e = game.engine(NEVER, slots=slots, width=26, buckets=())
    return grow(e, n=1, env=Game(turns=2), rewards=(reward,), explorer=scripted([Expand(limit=1)], list(wishes)))[0]
  blocked = Expand(node=0, suffix='abababababab ')
  g = run(blocked, Expand(node=0, limit=1))
  assert shape(g) == ([-1, 0], [0, 1]) and g.metrics == {'full': 1.} and paid == [[0, 1]]
  g = run(blocked, blocked)
  assert shape(g) == ([-1], [2]) and g.metrics == {'full': 2.} and paid[1:] == [[0]], 'the last of them ends it, once'


def test_on_full_window():
  """At turn 3 action 0 goes (34 + 8 is still too much), then turn 1: prompt, obs 2, action 2, obs 3: 23 ids; one turn more each time."""
  paid = []

  def reward(episode):
    paid.append([n.end for n in episode.nodes])
    return {'extra': [0.] * len(episode.steps)}
  g = full('window', rewards=(reward,))
  assert shape(g)[1] == [0] * 10 + [1, 1] and paid == [[0, 0, 0, 0, 0, 1]] * 2
  for e in walk.episodes(g):
    assert [(len(n.context), n.fresh) for n in e.nodes] == [(9, True), (3, False), (3, False), (23, True), (23, True), (23, True)]
    prompt, eight = list(game.TOK.encode('dcbadcba:')), list(game.TOK.encode(' 8.'))
    for i in (3, 4, 5):
      assert e.nodes[i].context == [*prompt, *eight, *e.nodes[i - 1].ids, *eight], 'the first observation is never cut'
  assert g.metrics == {'windowed': 2 * (2 + 1 + 1)}
  assert game.gap([g])[0] < 1e-4


def test_a_probe_sees_what_the_next_turn_sees(monkeypatch):
  """One id would fit behind much more than a turn of 8 does; one that does not fit even so drops more."""
  seen, score = [], engines.score
  monkeypatch.setattr(engines, 'score', lambda e, contexts, tails: seen.append(contexts) or score(e, contexts, tails))
  probe = lambda suffix: lambda view: [Probe(node=i, name='p', suffix=suffix) for i, n in enumerate(view.nodes) if not n.end]
  grown = lambda suffix: grow(game.engine(NEVER, width=40, on_full='window'), n=1, env=Game(turns=6, words=LONG.words),
                              explorer=flat(width=1), probes=(probe(suffix),))[0]
  g = grown('a')
  assert seen.pop() == [walk.ids_before(g.nodes, i) for i in range(1, 6)] and len(g.nodes) == 6
  grown('<' * 10)
  assert [len(c) for c in seen.pop()] == [20, 23, 23, 23, 23]


def test_on_full_error():
  with pytest.raises(ValueError, match="path of prompt 'train0' has no room for a turn of 8 ids, a slot holds 40: raise `sampler"):
    full('error')


@pytest.mark.parametrize('on_full', ['end', 'window'])
def test_a_prompt_that_is_too_long_is_counted_and_the_others_go_on(on_full):
  """37 ids and a turn of 8 in 40: nothing can be said, twice; its group comes, empty, and can be packed."""
  env = Game(turns=2, words=('abdc', 'dcba' * 9, 'cd'))
  groups = grow(game.engine(NEVER, width=40, on_full=on_full), n=3, env=env, rewards=(lambda e: {'x': [0.] * len(e.steps)},))
  assert [len(g.nodes) for g in groups] == [4, 0, 4]
  assert [g.metrics for g in groups] == [{}, {'full': 2., 'too_long': 2.}, {}]
  b = game.packed(groups).batch
  assert int(b.nodes.valid.sum()) == 8 and sorted(set(b.nodes.group[b.nodes.valid])) == [0, 2]


def test_a_branch_without_room_leaves_the_path_it_left_as_it_was():
  """A forced text of 12 ids fits nowhere behind step 1: step 1, which went on to 2, is no end; the explorer is asked again."""
  after = []
  explorer = scripted([Expand()], [Expand(node=1, suffix=' .' * 6)], lambda view: after.append(view.running) or [])
  g, = grow(game.engine(NEVER, width=40), n=1, env=LONG, explorer=explorer)
  assert shape(g) == ([-1, 0, 1], [0, 0, 1]) and g.metrics == {'full': 1.} and after == [0]


def test_max_steps_cuts_an_episode_off():
  paid = []

  def reward(episode):
    paid.append(len(episode.steps))
    return {'extra': [1.] * len(episode.steps)}
  g, = grow(n=1, max_steps=2, rewards=(reward,))
  assert shape(g) == ([-1, -1, 0, 1], [0, 0, 2, 2]) and paid == [2, 2]
  g, = grow(n=1, max_steps=3)
  assert shape(g)[1] == [0, 0, 0, 0, 1, 1], 'an end of the environment comes first'


def test_what_an_environment_pays_an_episode_that_max_steps_cut_off():
  class Strict(Game):
    def cut(self, state):
      assert state[1] == 2, 'the state behind the last action'
      return Step('', {'task': -.25}, 2, metrics={'cut': 1.})
  class Broken(Game):
    def cut(self, state):
      raise OSError('gone')
  (plain,), (paid,), (whole,) = (grow(n=1, env=env(turns=3), max_steps=m) for env, m in ((Game, 2), (Strict, 2), (Strict, 3)))
  for a, b in zip(plain.nodes, paid.nodes, strict=True):
    assert b.reward['task'] == a.reward['task'] - .25 * (b.end == 2) and b.metrics.get('cut', 0.) == (b.end == 2)
  assert shape(whole)[1] == [0, 0, 0, 0, 1, 1], 'an end of its own is not cut'
  judged = []
  def reward(episode):
    judged.append(episode)
    return {}
  broken, = grow(n=1, env=Broken(turns=3), max_steps=2, rewards=(reward,))
  assert shape(broken) == ([-1, -1, 0, 1], [0, 0, 3, 3]) and broken.metrics == {'env_errors': 2.} and not judged


# ---- rewards ---------------------------------------------------------------------------------------------------------

def by_length(episode):
  return {'length': [float(len(n.ids)) for n in episode.nodes]}


async def slow(episode):
  await asyncio.sleep(.3)
  return {'judge': [None] * (len(episode.steps) - 1) + [float(len(episode.nodes[-1].ids))]}


def order(episodes):
  rank = sorted(range(len(episodes)), key=lambda i: episodes[i].nodes[-1].reward['length'])
  return [{'rank': [0.] * (len(e.steps) - 1) + [float(rank.index(i))]} for i, e in enumerate(episodes)]


order.grain = 'group'


async def slow_order(episodes):
  await asyncio.sleep(.3)
  assert all('judge' in e.nodes[-1].reward for e in episodes), 'asked when the episodes have their verdicts'
  return [{'late': [float(i)] * len(e.steps)} for i, e in enumerate(episodes)]


slow_order.grain = 'group'


def test_rewards_of_episodes_and_prompts():
  groups = grow(n=3, rewards=(by_length, order))
  for g in groups:
    assert all(n.reward['length'] == n.reward['task'] == len(n.ids) for n in g.nodes)
    assert sorted(g.nodes[i].reward['rank'] for i in (4, 5)) == [0., 1.]
    low, high = sorted((4, 5), key=lambda i: g.nodes[i].reward['rank'])
    assert g.nodes[low].reward['length'] <= g.nodes[high].reward['length']


def test_coroutines_judge_while_others_grow_and_all_at_once():
  """Six prompts of two episodes, .3 s a verdict, .3 s a comparison: 12 + 6 verdicts one after the other would take 5.4 s."""
  grow(n=6)
  began, clock = time.monotonic(), {}
  groups = grow(n=6, rewards=(by_length, slow, slow_order), clock=clock)
  assert time.monotonic() - began < 3.5 and .3 < clock['reward'] < 2
  assert [g.index for g in groups] == list(range(6)) and all(g.metrics == {} for g in groups)
  for g in groups:
    assert [n.reward['judge'] for n in g.nodes] == [None] * 4 + [float(len(n.ids)) for n in g.nodes[4:]]
    assert [n.reward['late'] for n in g.nodes] == [0., 1.] * 3
  n = game.packed(groups).batch.nodes
  assert n.judged['judge'].tolist()[:6] == [False] * 4 + [True] * 2
  assert not tree.returns(n, 'judge')[1].any() and tree.returns(n, 'late')[1].sum() == 12


def test_a_prompt_is_compared_once():
  asked = []

  async def once(episodes):
    asked.append(episodes[0].task.id)
    return [{'x': [1.] * len(e.steps)} for e in episodes]
  once.grain = 'group'
  grow(n=3, rewards=(once,))
  assert sorted(asked) == ['train0', 'train1', 'train2']


async def broken(episode):
  """Has no verdict on the second prompt, and fails on one answer to the first."""
  await asyncio.sleep(0)
  if episode.task.id == 'train0' and episode.nodes[0].branch == 1:
    raise ConnectionError('the judge is out')
  return {'judge': [1.] * len(episode.steps)}


broken.writes = ('reward/judge',)


def test_a_coroutine_that_raises_gives_no_verdict_and_is_counted():
  groups = grow(n=2, rewards=(broken,))
  assert [g.metrics for g in groups] == [{'reward_errors': 1.}, {}]
  assert [n.reward.get('judge', 'absent') for n in groups[0].nodes] == [1., 'absent', 1., 'absent', 1., None]
  n = game.packed(groups).batch.nodes
  on = tree.returns(n, 'judge')[1]
  assert on[:12].tolist() == [False] * 4 + [True, False] + [False] * 4 + [True, True]
  assert tree.returns(n, 'task')[1][:12].sum() == 4, 'what the environment paid still counts'


def test_a_judge_that_always_fails_ends_the_run():
  async def dead(episode):
    raise ConnectionError(f'no route to {episode.task.id}')
  with pytest.raises(RuntimeError, match="every verdict of the reward 'dead' failed; its first error was: "
                                         "ConnectionError: no route to train0"):
    grow(n=2, rewards=(by_length, dead))


def test_a_reward_that_raises_at_once_is_an_error():
  def bug(episode):
    raise ZeroDivisionError('a bug')
  with pytest.raises(ZeroDivisionError, match='a bug'):
    grow(n=1, rewards=(bug,))


def wrong_length(episode):
  return {'x': [1.]}


async def wrong_length_late(episode):
  return {'x': [1.]}


def a_number(episode):
  return 1.


def numbers(episode):
  return {'x': 1.}


def taken(episode):
  return {'task': [1.] * len(episode.steps)}


def one_short(episodes):
  return [{'x': [0.] * len(e.steps)} for e in episodes[1:]]


one_short.grain = 'group'


def endless(episode):
  return {'x': [None, 0., float('inf')]}


async def nan_late(episode):
  return {'x': [float('nan')] * 3}


@pytest.mark.parametrize('reward, message', [
    (endless, "'endless' gave inf on 'x' for step .: a verdict is a finite number, or None"),
    (nan_late, "'nan_late' gave nan on 'x' for step .: a verdict is a finite number, or None"),
    (wrong_length, "'wrong_length' gave 1 numbers on 'x' for 3 steps"),
    (wrong_length_late, "'wrong_length_late' gave 1 numbers on 'x' for 3 steps"),
    (a_number, "'a_number' gave 1.0: it returns a dict from channels to one number a step"),
    (numbers, "'numbers' gave 1.0 numbers on 'x' for 3 steps"),
    (one_short, "'one_short' gave 1 verdicts for 2 episodes"),
    (taken, "'taken' writes 'task', which the environment or another reward pays already")])
def test_a_verdict_of_the_wrong_shape_is_an_error(reward, message):
  with pytest.raises(ValueError, match=message):
    grow(n=1, rewards=(reward,))


def test_a_shared_step_keeps_its_first_verdict():
  seen = []

  def count(episode):
    seen.append(episode.steps)
    return {'nth': [float(len(seen))] * len(episode.steps)}
  g, = grow(n=1, explorer=scripted([Expand()], [Expand(node=0, width=2)]), rewards=(count,))
  assert [n.reward['nth'] for n in g.nodes] == [1., 1., 1., 2., 3., 2., 3.]
  assert list(map(list, seen)) == [[0, 1, 2], [0, 3, 5], [0, 4, 6]]


# ---- environments that fail ------------------------------------------------------------------------------------------

class Fragile(NamedTuple):
  """Dies in `reset` of some tasks, and in the second step of others."""
  resets: tuple = ()
  steps: tuple = ()

  def tasks(self, split):
    return Game().tasks(split)

  def reset(self, task, seed):
    if task.id in self.resets:
      raise OSError(f'{task.id} is not there')
    return (task.id, Game().reset(task, seed)[0]), Game().reset(task, seed)[1]

  def step(self, state, action):
    name, inner = state
    if name in self.steps and inner[1] == 1:
      raise OSError(f'{name} broke')
    inner, step = Game().step(inner, action)
    return (name, inner), step


def test_an_environment_that_dies_costs_its_episodes_only():
  paid = []
  def reward(episode):
    paid.append(episode.task.id)
    return {'extra': [0.] * len(episode.steps)}
  groups = grow(n=3, env=Fragile(resets=('train0',), steps=('train1',)), rewards=(reward,))
  assert [g.metrics for g in groups] == [{'failed_resets': 1.}, {'env_errors': 2.}, {}]
  assert groups[0].nodes == [] and shape(groups[1]) == ([-1, -1, 0, 1], [0, 0, 3, 3])
  assert shape(groups[2])[1] == [0, 0, 0, 0, 1, 1] and paid == ['train2', 'train2']
  assert rows.paths(groups[1]) == []


@pytest.mark.parametrize('env, error', [
    (Fragile(resets=('train0', 'train1')), 'OSError: train0 is not there'),
    (Fragile(steps=('train0', 'train1')), 'OSError: train0 broke'),
    (Fragile(resets=('train1',), steps=('train0',)), 'OSError: train1 is not there')])
def test_where_everything_fails_the_first_error_is_quoted(env, error):
  """Also to a caller who takes just as many groups as there are prompts."""
  run = rollout.rollout({'policy': game.engine()}, env.tasks('train')[:2], plan=game.plan(env=env), key=game.KEY)
  with pytest.raises(RuntimeError, match=f'every episode failed, the environment seems dead; its first error was: {error}'):
    for _ in range(2):
      next(run)


def test_one_failure_among_abandoned_paths_is_not_the_end():
  groups = grow(n=2, env=Fragile(resets=('train0',)), explorer=scripted([Expand(limit=1)]))
  assert groups[0].metrics == {'failed_resets': 1.} and shape(groups[1]) == ([-1], [0])


def test_a_rollout_that_is_left_early_leaves_no_slot_busy():
  class Interrupted(Game):
    def step(self, state, action):
      if state[1] == 1:
        raise KeyboardInterrupt
      return super().step(state, action)
  def bug(episode):
    raise ZeroDivisionError
  pool = {'policy': game.engine(slots=4, buckets=()), 'friend': game.engine(seed=1, slots=4, buckets=())}
  pool['friend'].busy[2] = True                     # somebody else's
  explorer = scripted([Expand(width=2), Expand(width=2, by='friend')])
  for error, kw in ((KeyboardInterrupt, dict(env=Interrupted())), (ZeroDivisionError, dict(rewards=(bug,)))):
    with pytest.raises(error):
      grow(pool, n=1, explorer=explorer, **kw)
    assert [e.busy.tolist() for e in pool.values()] == [[False] * 4, [False, False, True, False]]
  class Uneven(Game):
    def step(self, state, action):
      state, step = super().step(state, action)
      return state, step._replace(end=1) if state[0] == 'ab' else step
  run = rollout.rollout(pool, Game().tasks('x')[:3], plan=game.plan(env=Uneven(), explorer=flat(width=2)), key=game.KEY)
  next(run)
  assert pool['policy'].busy.sum() == 2, 'the second prompt is still being grown'
  run.close()
  assert not pool['policy'].busy.any() and len(grow(pool, n=2)) == 2


def test_a_bug_of_the_explorer_is_not_blamed_on_the_environment():
  def init(task):
    raise TypeError('my bug')
  with pytest.raises(TypeError, match='my bug'):
    grow(n=1, explorer=Explorer(init, None))


def test_worker_threads_change_nothing():
  seen = set()

  class Threaded(Game):
    def step(self, state, action):
      seen.add(threading.current_thread().name.split('_')[0])
      time.sleep(.002)
      return super().step(state, action)
  with_threads = grow(n=4, env=Threaded(), workers=3)
  assert seen == {'rlx-env'}
  for a, b in zip(with_threads, grow(n=4), strict=True):
    assert shape(a) == shape(b) and [n.ids for n in a.nodes] == [n.ids for n in b.nodes]


# ---- the rest --------------------------------------------------------------------------------------------------------

class Saved(Game):
  """Starts where the task says."""

  def tasks(self, split):
    return [t._replace(start=('abcd', 1)) if i else t for i, t in enumerate(super().tasks(split))]


@pytest.mark.parametrize('stop', [NEVER, engines.Stop(ids=tuple(range(1, 32, 3)))], ids=['never', 'ids'])
def test_a_turn_drawn_in_several_calls_is_the_same_turn(stop):
  """Rows that are done are left out of the later calls, in a smaller bucket."""
  whole, calls = grow(game.engine(stop), n=4), []
  e = game.engine(stop, segment=3)
  decode = e.sampler.decode
  def spy(params, slots, rows, *args, **kw):
    calls.append(len(rows))
    return decode(params, slots, rows, *args, **kw)
  e.sampler = e.sampler._replace(decode=spy)
  game.assert_same(whole, grow(e, n=4))
  assert len(calls) >= 3 * 3 and (stop is NEVER or set(calls) == {4, 16})


def test_what_a_step_carries():
  """Labels of the step, of what it answers, metrics, the state it starts from, and how many rollouts the task wants."""
  class Telling(Game):
    def step(self, state, action):
      state, step = super().step(state, action)
      return state, step._replace(metrics={'said': 1.})
  tasks = [t._replace(width=w) for t, w in zip(Telling().tasks('train'), (1, 3), strict=False)]
  groups = grow(tasks=tasks, env=Telling())
  assert [len(list(walk.episodes(g))) for g in groups] == [1, 3]
  for n in groups[0].nodes:
    assert n.label == {'state': 'ab' if n.parent < 0 else n.parent + 1, 'action': n.text} and n.metrics['said'] == 1.
  started = grow(env=Saved(), n=2)
  assert [len(g.nodes) for g in started] == [6, 4], 'one turn was taken already'
  told = grow(tasks=[t._replace(start=(('abcd', 1), Obs('bcd:', {'state': 'late'}))) for t in Game().tasks('train')[:1]])
  assert [n.obs for n in told[0].nodes if n.parent < 0] == ['bcd:'] * 2 and len(told[0].nodes) == 4
  assert all(n.label['state'] == 'late' for n in told[0].nodes if n.parent < 0)


def test_uniform_passes_over_the_split_in_a_new_order_each_time():
  c = uniform(env=Game(), seed=3)
  state, first = c.sample(c.init(), 6, 0)
  state, second = c.sample(c.update(state, []), 6, 1)
  ids = lambda tasks: [t.id for t in tasks]
  assert sorted(ids(first)) == sorted(ids(second)) == [f'train{i}' for i in range(6)] and ids(first) != ids(second)
  again, across = c.sample(4, 4, 9)
  assert again == 8 and ids(across) == [*ids(first)[4:], *ids(second)[:2]], 'the state alone decides'
  assert ids(uniform(env=Game(), seed=4).sample(0, 6, 0)[1]) != ids(first)
  with pytest.raises(ValueError, match="no tasks in split 'empty'"):
    uniform(env=type('Empty', (), dict(tasks=lambda self, split: []))(), split='empty')
