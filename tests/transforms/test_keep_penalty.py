"""HiPER's penalties on turns that keep their plan (arXiv:2602.16165; JonP07/HiPER-agent@9d3c118b) and an independent twin."""

import functools
import random

import numpy as np
import pytest

from rlx import toy
from rlx.transforms.keep_penalty import keep_penalty
from tests.estimators import forests


@functools.wraps(keep_penalty)
def shaped(batch, **mode):
  return keep_penalty(batch, **mode).nodes.reward[mode['into']]


def twin(f, switch, goal, *, total=-.3, form='normalised', consistency=0., into='task'):
  keep = lambda s: not switch[s]
  paid = []
  for found in forests.episodes(f, 'task').values():
    for steps, _ in found:
      turns = len(steps)
      one = total if form == 'fixed' else total / turns if turns > 1 else 0.      # an only turn cannot keep anything
      paid.append((steps, one))
  paid = forests.over_paths(f, paid)
  out = []
  for s, p in enumerate(f.parent):
    drift = p >= 0 and keep(s) and goal[s] and goal[p] and goal[s] != goal[p]
    out.append(f.reward[into][s] + keep(s) * paid[s] + bool(drift) * consistency)
  return out


@pytest.mark.parametrize('mode, expected', [
    (dict(), [0, -.075, -.075, 1]), (dict(form='fixed'), [0, -.3, -.3, 1]), (dict(total=-3.5), [0, -.875, -.875, 1])], ids=str)
def test_by_hand(mode, expected):
  # SWITCH KEEP KEEP SWITCH: the total times the share of KEEP turns, spread over them, is total / 4 each; or the total each
  batch = toy.batch([-1, 0, 1, 2], task=[0, 0, 0, 1], label=dict(switch=[1, 0, 0, 1], goal=[1, 1, 1, 2]))
  np.testing.assert_allclose(forests.run(shaped, batch, **mode), expected, atol=1e-6)


def test_the_first_turn_counts():
  # KEEP SWITCH: turn 0 is a KEEP turn as any other, one of two; a rollout of one turn gets nothing
  batch = toy.batch([-1, 0, -1], task=0, label=dict(switch=[0, 1, 0], goal=[1, 1, 1]))
  np.testing.assert_allclose(forests.run(shaped, batch), [-.15, 0, 0], atol=1e-6)


def test_consistency():
  # goals A A B - B A: kept and the same, kept but another, none there, none before, SWITCH
  batch = toy.batch([-1, 0, 1, 2, 3, 4], task=0, label=dict(switch=[1, 0, 0, 0, 0, 1], goal=[5, 5, 7, 0, 7, 5]))
  np.testing.assert_allclose(forests.run(shaped, batch, total=0., consistency=-.3), [0, 0, -.3, 0, 0, 0], atol=1e-6)
  both = forests.run(shaped, batch, consistency=-.3)
  np.testing.assert_allclose(both, [0, -.05, -.35, -.05, -.05, 0], atol=1e-6)


def test_nothing_else_changes():
  batch = toy.batch([-1, 0, -1, 2], task=[0, 1, 0, 0], extra=[1, 2, 3, 4],
                    label=dict(switch=[1, 0, 0, 0], goal=[1, 2, 1, 1]))
  got = keep_penalty(batch, into='extra', consistency=-.3)
  np.testing.assert_allclose(got.nodes.reward['extra'], [1, 2 - .15 - .3, 3 - .15, 4 - .15], atol=1e-6)
  np.testing.assert_array_equal(got.nodes.reward['task'], batch.nodes.reward['task'])
  np.testing.assert_allclose(batch.nodes.reward['extra'], [1, 2, 3, 4])
  assert got.tokens is batch.tokens
  with pytest.raises(ValueError):
    keep_penalty(batch, form='other')


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  switch = [int(rng.random() < .4) for _ in f.parent]
  goal, plan = ([rng.choice([0, 3, 3, 4, 5]) for _ in f.parent] for _ in range(2))
  return f, f.batch(toy, label=dict(switch=switch, goal=goal, plan=plan)), switch, goal, plan


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(form='fixed'), dict(total=-3.5, consistency=-.3), dict(form='fixed', consistency=-.5, into='invalid'),
    dict(same='plan', consistency=-.25)], ids=str)
def test_twin(make, seed, mode):
  f, batch, switch, goal, plan = forest(make, seed)
  got = forests.run(shaped, batch, **mode)
  want = twin(f, switch, plan if 'same' in mode else goal, **{k: x for k, x in mode.items() if k != 'same'})
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  if mode.get('form') == 'fixed':    # nobody says what an only turn gets there
    live -= {s for s in live if f.parent[s] < 0 and f.end[s]}
  live = sorted(live)                # what no episode runs through is paid to nobody
  np.testing.assert_allclose(got[live], np.asarray(want)[live], rtol=1e-5, atol=2e-6)
