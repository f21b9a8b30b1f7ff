"""GRPO against arXiv:2402.03300, eq. of section 4.1.2, and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.grpo import grpo


def twin(f, *, channel='task', std=True, ddof=1, eps=1e-6, clip=None, singleton='zero'):
  advantages = []
  for found in forests.episodes(f, channel).values():
    mean = sum(r for _, r in found) / len(found)
    square = sum((r - mean) ** 2 for _, r in found)
    for steps, r in found:
      if len(found) == 1:
        a = 0. if singleton == 'zero' else r
      else:
        a = (r - mean) / (math.sqrt(square / (len(found) - ddof)) + eps if std else 1.)
      if clip is not None:
        a = max(-clip, min(clip, a))
      advantages.append((steps, a))
  return forests.over_paths(f, advantages)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


def test_worked_example():
  # A_i = (R_i - mean R) / (std R + eps), R = 1 0 0 1 .5: mean .5, sample std .5, population std .4472
  batch = toy.batch([-1] * 5, task=[1, 0, 0, 1, .5])
  np.testing.assert_allclose(forests.run(grpo, batch, ddof=1), [1, -1, -1, 1, 0], atol=1e-5)
  np.testing.assert_allclose(forests.run(grpo, batch, ddof=0), [1.11803, -1.11803, -1.11803, 1.11803, 0], atol=1e-5)
  # without the division: Dr. GRPO, arXiv:2503.20783
  np.testing.assert_allclose(forests.run(grpo, batch, std=False), [.5, -.5, -.5, .5, 0], atol=1e-6)


def test_worked_example_of_verl():
  # verl compute_grpo_outcome_advantage, run on scores 1 0 0 0; the last digit is that of eps
  batch = toy.batch([-1] * 4, task=[1, 0, 0, 0])
  np.testing.assert_allclose(forests.run(grpo, batch), [1.499997, -.499999, -.499999, -.499999], atol=5e-7)
  np.testing.assert_allclose(forests.run(grpo, batch, std=False), [.75, -.25, -.25, -.25], atol=1e-6)


def test_failed_episode_leaves_the_group():
  # TRUST-SQL, arXiv:2603.16448: population std over rollouts that were not aborted, clipped to 10
  batch = toy.batch([-1] * 4, end=[1, 1, 1, 3], schema=[1, 0, 0, 5], answer=[1.1, .3, 0, 5])
  schema, answer = (forests.run(grpo, batch, channel=c, ddof=0, clip=10.) for c in ('schema', 'answer'))
  np.testing.assert_allclose(schema, [1.4142, -.7071, -.7071, 0], atol=1e-4)
  np.testing.assert_allclose(answer, [1.3641, -.3590, -1.0051, 0], atol=1e-4)


def test_tree():
  # leaves 2 3 5 return 1 0 1: mean 2/3, sample std .57735; a shared step has the mean of the leaves below it
  batch = toy.batch([-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, 1])
  np.testing.assert_allclose(forests.run(grpo, batch), [0, -.288675, .57735, -1.154701, .57735, .57735], atol=1e-5)


def test_singleton():
  batch = toy.batch([-1, 0], task=[.25, .5])
  np.testing.assert_array_equal(forests.run(grpo, batch, singleton='zero'), [0, 0])
  np.testing.assert_allclose(forests.run(grpo, batch, singleton='raw'), [.75, .75], rtol=1e-5)   # verl: mean 0, std 1


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(ddof=0), dict(std=False), dict(clip=.5), dict(singleton='raw'),
    dict(std=False, singleton='raw', clip=.75), dict(channel='format', ddof=0), dict(eps=.25)], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(grpo, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)
