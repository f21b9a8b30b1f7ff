"""RLOO against arXiv:2402.14740 and an independent twin."""

import functools

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.rloo import rloo


def twin(f, *, channel='task', singleton='zero'):
  advantages = []
  for found in forests.episodes(f, channel).values():
    for i, (steps, r) in enumerate(found):
      others = [other for j, (_, other) in enumerate(found) if j != i]
      if others:
        a = r - sum(others) / len(others)
      else:
        a = 0. if singleton == 'zero' else r
      advantages.append((steps, a))
  return forests.over_paths(f, advantages)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


def test_worked_example():
  # A_i = R_i - mean of the others = n / (n - 1) * (R_i - mean R)
  batch = toy.batch([-1] * 5, task=[1, 0, 0, 1, .5])
  np.testing.assert_allclose(forests.run(rloo, batch), [.625, -.625, -.625, .625, 0], atol=1e-6)


def test_tree():
  # leaves 2 3 5 return 1 0 1: .5, -1, .5; a shared step has the mean of the leaves below it
  batch = toy.batch([-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, 1])
  np.testing.assert_allclose(forests.run(rloo, batch), [0, -.25, .5, -1, .5, .5], atol=1e-6)


def test_failed_episode_is_no_baseline():
  batch = toy.batch([-1] * 3, end=[1, 2, 3], task=[1, 0, 9])
  np.testing.assert_allclose(forests.run(rloo, batch), [1, -1, 0], atol=1e-6)


def test_singleton():
  # the loop in verl keeps the return, its vectorised form gives 0
  batch = toy.batch([-1, 0], task=[.25, .5])
  np.testing.assert_array_equal(forests.run(rloo, batch, singleton='zero'), [0, 0])
  np.testing.assert_allclose(forests.run(rloo, batch, singleton='raw'), [.75, .75], rtol=1e-6)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(singleton='raw'), dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(rloo, batch, **mode), twin(f, **mode), rtol=1e-5, atol=1e-6)
