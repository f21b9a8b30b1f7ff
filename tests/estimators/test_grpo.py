"""GRPO against arXiv:2402.03300, eq. of section 4.1.2, and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.grpo import grpo


def twin(f, *, channel='task', std=True, ddof=1, eps=1e-6, clip=None, singleton='zero', vectorised=False):
  advantages = []
  for found in forests.episodes(f, channel).values():
    mean = sum(r for _, r in found) / len(found)
    square = sum((r - mean) ** 2 for _, r in found)
    for steps, r in found:
      if len(found) == 1:
        a = 0. if singleton == 'zero' else r
      else:
        variance = square / (len(found) - ddof)
        a = (r - mean) / (math.sqrt(max(variance, 1e-6) if vectorised else variance) + eps if std else 1.)
      if clip is not None:
        a = max(-clip, min(clip, a))
      advantages.append((steps, a))
  return forests.over_paths(f, advantages)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  f.reward['near'] = [r / 1024 for r in f.reward['task']]   # deviations below 1e-3
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


@pytest.mark.parametrize('ddof, plain', [(1, .706108), (0, .998004)])
def test_vectorised_form_of_verl(ddof, plain):
  # volcengine/verl compute_grpo_vectorized_outcome_advantage: sqrt(max(var, 1e-6)) + eps, a deviation of 1e-3 at least; R = .001 0
  # has variance 5e-7 (2.5e-7 with ddof 0): .0005 / (.001 + 1e-6) instead of .0005 / (.00070711 + 1e-6)
  batch = toy.batch([-1] * 6, group=[0, 0, 1, 1, 2, 2], task=[.001, 0, 1, 0, .3, .3])
  for vectorised, close in ((True, .499500), (False, plain)):
    far = .5 / (math.sqrt(.5 / (2 - ddof)) + 1e-6)     # above the floor nothing changes, and equal returns give exactly 0
    got = forests.run(grpo, batch, ddof=ddof, vectorised=vectorised)
    np.testing.assert_allclose(got, [close, -close, far, -far, 0, 0], atol=2e-6)
  np.testing.assert_allclose(forests.run(grpo, batch, std=False, vectorised=True), [.0005, -.0005, .5, -.5, 0, 0], atol=1e-7)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(ddof=0), dict(std=False), dict(clip=.5), dict(singleton='raw'),
    dict(std=False, singleton='raw', clip=.75), dict(channel='format', ddof=0), dict(eps=.25),
    dict(vectorised=True), dict(vectorised=True, ddof=0, channel='near')], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(grpo, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)
