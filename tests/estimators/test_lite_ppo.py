"""Lite-PPO ("Tricks or Traps?", arXiv:2508.08221): mean of the prompt, deviation of the batch; and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.lite_ppo import lite_ppo


def twin(f, *, channel='task', ddof=1, eps=1e-6):
  prompts = forests.episodes(f, channel).values()
  returns = [ret for found in prompts for _, ret in found]
  mean = sum(returns) / len(returns)
  spread = math.sqrt(sum((r - mean) ** 2 for r in returns) / max(len(returns) - ddof, 1))
  pairs = [(steps, (ret - sum(r for _, r in found) / len(found)) / (spread + eps)) for found in prompts for steps, ret in found]
  return forests.over_paths(f, pairs)


@pytest.mark.parametrize('ddof, large, small', [(0, 1.590987, .530329), (1, 1.523254, .507751)])
def test_worked_example(ddof, large, small):
  # deviation of all twelve raw rewards: .471405 or .492366; that of the centred ones would be .353553 or .369274
  b = toy.batch([-1] * 12, group=[0] * 4 + [1] * 4 + [2] * 4, task=[1, 0, 0, 0, 1, 1, 1, 0, 1, 1, 1, 1])
  expected = [large, -small, -small, -small, small, small, small, -large, 0, 0, 0, 0]
  np.testing.assert_allclose(forests.run(lite_ppo, b, ddof=ddof), expected, atol=2e-6)


@pytest.mark.parametrize('group, task', [([0, 0, 1, 1], [.3] * 4), ([0], [1.]), ([0, 0], [.1, .1])], ids=str)
def test_no_variance_in_the_batch(group, task):
  assert not forests.run(lite_ppo, toy.batch([-1] * len(group), group=group, task=task)).any()


def test_prompts_without_variance_of_their_own():
  # all right and all wrong: nothing to learn, though the batch has a deviation
  assert not forests.run(lite_ppo, toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 1, 0, 0])).any()


@functools.cache
def forest(kind, seed):
  f = getattr(forests, kind)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('kind', ['chains', 'trees'])
@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('mode', [dict(), dict(ddof=0, eps=.125), dict(channel='format')], ids=str)
def test_twin(kind, seed, mode):
  f, batch = forest(kind, seed)
  np.testing.assert_allclose(forests.run(lite_ppo, batch, **mode), twin(f, **mode), rtol=2e-5, atol=5e-6)
