"""Only the best answer of a prompt is paid, by how far it is ahead (arXiv:2503.19595, verl's GRPO pass@k), against a twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.pass_at_k import pass_at_k


def twin(f, *, channel='task', std=True, ddof=1, eps=1e-6):
  advantages = []
  for found in forests.episodes(f, channel).values():
    scores = [r for _, r in found]
    mean = sum(scores) / len(scores)
    for i, (steps, r) in enumerate(found):
      others = scores[:i] + scores[i + 1:]
      ahead = max(r - max(others), 0.) if others else 0.
      spread = math.sqrt(sum((x - mean) ** 2 for x in scores) / (len(scores) - ddof)) + eps if std and others else 1.
      advantages.append((steps, ahead / spread))
  return forests.over_paths(f, advantages)


@pytest.mark.parametrize('mode, expected', [(dict(), 1.044464), (dict(ddof=0), 1.206042), (dict(std=False), .5)], ids=str)
def test_worked_example(mode, expected):
  # R = 1 0 0 .5: (1 - .5) / std; squares .6875, sample std .478714, population std .414578
  batch = toy.batch([-1] * 4, task=[1, 0, 0, .5])
  np.testing.assert_allclose(forests.run(pass_at_k, batch, **mode), [expected, 0, 0, 0], atol=1e-6)


def test_ties_and_singletons():
  # prompt 0: two share the first place; 1: all are equal; 2: one episode; 3: the best one below 0
  batch = toy.batch([-1] * 8, group=[0, 0, 0, 1, 1, 2, 3, 3], task=[1, 1, 0, .3, .3, 1, -2, -1])
  np.testing.assert_allclose(forests.run(pass_at_k, batch, std=False), [0, 0, 0, 0, 0, 0, 0, 1], atol=1e-6)
  np.testing.assert_allclose(forests.run(pass_at_k, batch), [0, 0, 0, 0, 0, 0, 0, 1.414212], atol=1e-6)


def test_failed_and_abandoned_episodes_are_not_second():
  batch = toy.batch([-1] * 4, end=[1, 2, 3, 0], task=[1, 0, 9, 9])
  np.testing.assert_allclose(forests.run(pass_at_k, batch, std=False), [1, 0, 0, 0], atol=1e-6)


def test_tree():
  # leaves 2 3 5 return 1 0 .5: the first gets (1 - .5) / .5, and the steps above it their share of that
  batch = toy.batch([-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, .5])
  np.testing.assert_allclose(forests.run(pass_at_k, batch), [1 / 3, .5, 1, 0, 0, 0], atol=1e-5)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(ddof=0), dict(std=False), dict(channel='format', eps=.25)], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(pass_at_k, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)
