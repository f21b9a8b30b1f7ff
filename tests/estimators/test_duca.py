"""DuCA's separate normalisation (arXiv:2603.01481): the sheet's numbers, its point, and a slow twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.duca import duca
from rlx.estimators.grpo import grpo


def z(x, pool, ddof, eps):
  mean = sum(pool) / len(pool)
  return (x - mean) / (math.sqrt(sum((p - mean) ** 2 for p in pool) / max(len(pool) - ddof, 1)) + eps)


def twin(f, index, *, session='task', turn='format', weight=1., weight_session=1., pool='prompt', ddof=0, eps=1e-6):
  given = f.judged.get(turn, [True] * len(f.parent))
  step, parts = [0.] * len(f.parent), []
  for group, found in forests.episodes(f, session).items():
    live = sorted({s for steps, _ in found for s in steps if given[s]})
    for s in live:
      same = [f.reward[turn][o] for o in live if pool == 'prompt' or index[o] == index[s]]
      step[s] = z(f.reward[turn][s], same, ddof, eps)
    parts += [(steps, z(r, [r for _, r in found], ddof, eps)) for steps, r in found]
  return [weight * a + weight_session * b for a, b in zip(step, forests.over_paths(f, parts), strict=True)]


def test_worked_example():
  # turns .2 .8 .5 .5, sessions 10 0 10 0, one turn each: population deviations .2121 and 5
  batch = toy.batch([-1] * 4, turn=[.2, .8, .5, .5], session=[10, 0, 10, 0])
  np.testing.assert_allclose(forests.run(duca, batch), [-.4142, .4142, 1, -1], atol=1e-4)
  # added first and normalised then, the turns are lost: the sums are 10.2 .8 10.5 .5
  both = toy.batch([-1] * 4, task=[10.2, .8, 10.5, .5])
  np.testing.assert_allclose(grpo(both, ddof=0), [.9688, -.9688, 1.0302, -1.0302], atol=1e-3)


def test_the_scale_of_a_horizon_does_not_matter():
  one, other = (forests.run(duca, toy.batch([-1, 0, -1, 2], turn=[0, 1, .5, .5], session=[0, k, 0, 0]), eps=0.) for k in (1, 100))
  np.testing.assert_allclose(one, other, atol=1e-5)


def test_turns_of_one_number():
  # first turns 0 and 2, second turns 5 and 9: against their own number each is -1 or 1; sessions are equal
  batch = toy.batch([-1, 0, -1, 2], turn=[0, 5, 2, 9], session=0, label=dict(turn=[0, 1, 0, 1]))
  np.testing.assert_allclose(forests.run(duca, batch, pool='turn'), [-1, -1, 1, 1], atol=1e-5)
  np.testing.assert_allclose(forests.run(duca, batch), np.array([-4, 1, -2, 5]) / math.sqrt(11.5), atol=1e-5)
  np.testing.assert_allclose(forests.run(duca, batch, pool='turn', weight=3.), [-3, -3, 3, 3], atol=1e-5)


def test_without_variance_a_part_is_zero():
  batch = toy.batch([-1, -1], turn=[.3, .3], session=[1, 0])
  np.testing.assert_allclose(forests.run(duca, batch), [1, -1], atol=1e-5)
  np.testing.assert_array_equal(forests.run(duca, toy.batch([-1, -1], turn=.3, session=.7)), [0, 0])


def test_a_turn_without_a_verdict_has_the_session_only():
  batch = toy.batch([-1] * 3, turn=[0, 1, 50], judged=dict(turn=[True, True, False]), session=[1, 0, .5])
  np.testing.assert_allclose(forests.run(duca, batch), [-1 + 1.2247, 1 - 1.2247, 0], atol=1e-4)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  index = [len(forests.path(f.parent, i)) for i in range(len(f.parent))]
  return f, index, f.batch(toy, label=dict(turn=index))


@pytest.mark.parametrize('make, seed', [('chains', 0), ('trees', 1), ('trees', 2)])
@pytest.mark.parametrize('mode', [dict(eps=.125), dict(pool='turn', eps=.125), dict(ddof=1, eps=.25, weight=.5, weight_session=2.),
                                  dict(session='format', turn='invalid', eps=.125)], ids=str)
def test_twin(make, seed, mode):
  f, index, batch = forest(make, seed)
  mode = dict(session='task', turn='format') | mode
  np.testing.assert_allclose(forests.run(duca, batch, **mode), twin(f, index, **mode), rtol=2e-5, atol=5e-6)


def test_no_such_pool():
  with pytest.raises(ValueError, match="pool is 'prompt' or 'turn', not 'batch'"):
    duca(toy.batch([-1], turn=1, session=1), pool='batch')
