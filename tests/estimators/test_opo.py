"""OPO against arXiv:2505.23585 (the baseline of least variance, lengths for gradient norms) and an independent twin."""

import functools
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.opo import opo


def twin(f, tokens, *, channel='task'):
  advantages = []
  for found in forests.episodes(f, channel).values():
    lengths = [sum(tokens[s] for s in steps) for steps, _ in found]
    baseline = sum(n * r for n, (_, r) in zip(lengths, found, strict=True)) / sum(lengths)
    advantages += [(steps, r - baseline if len(found) > 1 else 0.) for steps, r in found]
  return forests.over_paths(f, advantages)


def test_worked_example():
  # b = sum len R / sum len; lengths 1 3 2, R = 1 0 .5: b = (1 + 0 + 1) / 6
  batch = toy.batch([-1] * 3, n_tokens=[1, 3, 2], n_obs=[5, 0, 1], task=[1, 0, .5])
  np.testing.assert_allclose(forests.run(opo, batch), [2 / 3, -1 / 3, 1 / 6], atol=1e-6)
  # equal lengths: the mean of the prompt
  np.testing.assert_allclose(forests.run(opo, toy.batch([-1] * 3, n_tokens=4, task=[1, 0, .5])), [.5, -.5, 0], atol=1e-6)


def test_tree():
  # leaves 2 3 5 with R = 1 0 1 and paths of 2 + 1 + 1, 2 + 1 + 3 and 2 + 1 + 2 tokens: b = 9 / 15; a shared step counts each time
  batch = toy.batch([-1, 0, 1, 1, 0, 4], n_tokens=[2, 1, 1, 3, 1, 2], n_obs=1, task=[0, 0, 1, 0, 0, 1])
  np.testing.assert_allclose(forests.run(opo, batch), [.2 / 3, -.1, .4, -.6, .4, .4], atol=1e-6)


def test_failed_and_abandoned_episodes_are_no_baseline():
  batch = toy.batch([-1] * 4, n_tokens=[1, 3, 2, 2], end=[1, 2, 3, 0], task=[1, 0, 9, 9])
  np.testing.assert_allclose(forests.run(opo, batch), [.75, -.25, 0, 0], atol=1e-6)


def test_singleton():
  np.testing.assert_allclose(forests.run(opo, toy.batch([-1, 0], n_tokens=[3, 4], task=[.25, .5])), [0, 0], atol=1e-6)


@functools.cache
def forest(make, seed, pack):
  f = getattr(forests, make)(seed)
  rng = random.Random(seed)
  # an action without a sampled token has no place in a length, nor has an observation
  tokens = [1 + rng.randrange(3) if p < 0 else rng.choice([0, 1, 1, 2, 3]) for p in f.parent]
  return f, tokens, f.batch(toy, n_tokens=tokens, n_obs=[rng.randrange(2) for _ in tokens], pack=pack)


@pytest.mark.parametrize('make, seed, pack', [('chains', 0, 1), ('chains', 1, 2), ('trees', 2, 1), ('trees', 3, 2)])
@pytest.mark.parametrize('mode', [dict(), dict(channel='format')], ids=str)
def test_twin(make, seed, pack, mode):
  f, tokens, batch = forest(make, seed, pack)
  np.testing.assert_allclose(forests.run(opo, batch, **mode), twin(f, tokens, **mode), rtol=1e-5, atol=2e-6)
