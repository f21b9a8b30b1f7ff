"""SLATE (arXiv:2602.23440) against its worked example and an independent twin: candidates of one step, judged one by one."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.slate import slate


def twin(f, *, channel='turn', std=True, ddof=1, eps=1e-6):
  ended = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  candidates = {}   # (prompt, the step before) -> steps
  for s in sorted(ended):
    if f.judged[channel][s]:
      candidates.setdefault((f.group[s], f.parent[s]), []).append(s)
  out = [0.] * len(f.parent)
  for steps in candidates.values():
    if len(steps) > 1:   # k = 1 is nan in the release
      r = [f.reward[channel][s] for s in steps]
      mean = sum(r) / len(r)
      spread = math.sqrt(sum((x - mean) ** 2 for x in r) / (len(r) - ddof))
      for s, x in zip(steps, r, strict=True):
        out[s] = (x - mean) / (spread + eps if std else 1.)
  return out


# four searches and an answer after one search: 2 1 0 -2 and 1 + 1 + lambda (B - t) / B = 2 + .1 * 3 / 4 = 2.075
REWARDS = [2, 1, 0, -2, 2.075]
EXPECTED = [.820, .228, -.364, -1.548, .864]


@pytest.mark.parametrize('before', [0, 1])
def test_worked_example(before):
  # mean .615; deviations 1.385 .385 -.615 -2.615 1.46 have squares 1.918 .148 .378 6.838 2.132, over 4: 2.854 = 1.6893^2
  batch = toy.batch([-1] * before + [before - 1] * 5, turn=[5] * before + REWARDS)
  np.testing.assert_allclose(forests.run(slate, batch), [0] * before + EXPECTED, atol=6e-4)
  centred = [1.385, .385, -.615, -2.615, 1.46]
  np.testing.assert_allclose(forests.run(slate, batch, std=False), [0] * before + centred, atol=1e-5)


def test_equal_and_single_candidates_get_nothing():
  batch = toy.batch([-1, -1, -1, 2, 3], group=[0, 0, 1, 1, 1], turn=[.1, .1, 2, 1, -1])
  np.testing.assert_array_equal(forests.run(slate, batch), [0] * 5)


def test_candidates_of_other_steps_are_no_siblings():
  batch = toy.batch([-1, -1, 0, 0, 1, 1], turn=[0, 0, 2, 0, 9, 8])
  np.testing.assert_allclose(forests.run(slate, batch), [0, 0, .7071, -.7071, .7071, -.7071], atol=1e-4)


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed + 10)
  n = range(len(f.parent))
  turn = [1. if f.group[i] == 2 else float(rng.randint(-2, 2)) for i in n]   # the third prompt has no variance
  f = f._replace(reward=f.reward | dict(turn=turn), judged=f.judged | dict(turn=[rng.random() > .1 for _ in n]))
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('trees', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(std=False), dict(ddof=0, eps=.125), dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(slate, batch, **mode), twin(f, **mode), rtol=1e-5, atol=1e-6)
