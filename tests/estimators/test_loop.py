"""LOOP (arXiv:2502.01600) against its released code (apple/ml-loop@6ade7b96, `RLOOTrainer`) and an independent twin."""

import functools
import math

import forests
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.loop import loop
from rlx.losses.ppo_clip import ppo_clip
from rlx.types import Out


def twin(f, *, channel='task', baseline='leave_one_out', std=False, ddof=0, floor=1e-7, bonus=0.):
  advantages = []
  for found in forests.episodes(f, channel).values():
    scores = [r for _, r in found]
    mean = sum(scores) / len(scores)
    for i, (steps, r) in enumerate(found):
      if len(found) == 1:
        advantages.append((steps, 0.))    # the release refuses such a prompt
        continue
      others = scores[:i] + scores[i + 1:] if baseline == 'leave_one_out' else scores
      a = r - sum(others) / len(others)
      if std:
        a /= max(math.sqrt(sum((x - mean) ** 2 for x in scores) / (len(scores) - ddof)), floor)
      advantages.append((steps, a + bonus))
  return forests.over_paths(f, advantages)


# R = 1 0 0 1 .5: mean .5, population std .447214, sample std .5; the first against the mean of the others: 1 - .375
@pytest.mark.parametrize('mode, first', [
    (dict(), .625), (dict(baseline='mean'), .5), (dict(std=True), 1.397542), (dict(std=True, baseline='mean'), 1.118034),
    (dict(std=True, ddof=1), 1.25), (dict(std=True, floor=2.), .3125), (dict(floor=2.), .625)], ids=str)
def test_worked_example(mode, first):
  batch, want = toy.batch([-1] * 5, task=[1, 0, 0, 1, .5]), np.array([first, -first, -first, first, 0])
  np.testing.assert_allclose(forests.run(loop, batch, **mode), want, atol=1e-6)
  np.testing.assert_allclose(forests.run(loop, batch, bonus=.25, **mode), want + .25, atol=1e-6)


def test_equal_returns_and_singletons():
  batch = toy.batch([-1] * 4, group=[0, 0, 0, 1], task=[.3, .3, .3, 1])
  for std in (False, True):
    np.testing.assert_array_equal(forests.run(loop, batch, std=std), [0, 0, 0, 0])


def test_tree_and_failed_episodes():
  # leaves 2 3 5 return 1 0 1: .5 -1 .5; 6 failed, 7 was abandoned: no bonus there
  batch = toy.batch([-1, 0, 1, 1, 0, 4, 0, -1], end=[0, 0, 1, 2, 0, 1, 3, 0], task=[0, 0, 1, 0, 0, 1, 9, 9])
  np.testing.assert_allclose(forests.run(loop, batch), [0, -.25, .5, -1, .5, .5, 0, 0], atol=1e-6)
  np.testing.assert_allclose(forests.run(loop, batch, bonus=1.), [1, .75, 1.5, 0, 1.5, 1.5, 0, 0], atol=1e-6)


def test_no_such_baseline():
  with pytest.raises(ValueError, match='median'):
    loop(toy.batch([-1, -1], task=[1, 0]), baseline='median')


def test_range_of_the_ratio():
  # [1 / (1 + eps), 1 + eps] with eps = .1; (A, w) = (1, 1.3) (1, .7) (-1, 1.3) (-1, .7): objectives 1.1 .7 -1.3 -.9091
  b = toy.batch([-1], n_tokens=4, task=0)
  zero = jnp.zeros((1, 4), jnp.float32)
  out = Out(logp=jnp.log(jnp.asarray([[1.3, .7, 1.3, .7]], jnp.float32)), entropy=zero, value={}, extra={})
  loss = ppo_clip(low=1 - 1 / 1.1, high=.1).term(out, b, jnp.asarray([[1., 1., -1., -1.]]), ())
  np.testing.assert_allclose(-loss, [[1.1, .7, -1.3, -.9091]], atol=5e-5)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=True), dict(std=True, ddof=1, floor=.5), dict(baseline='mean'), dict(baseline='mean', std=True, bonus=.125),
    dict(channel='format', std=True, bonus=-.5)], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(loop, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)
