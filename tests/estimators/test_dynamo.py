"""DynaMO's modulation (arXiv:2602.19208; GithubX-F/DynaMO-RL@63e5ec9a `dp_actor.py`, decay6_linearnorm) and a twin.

The policy's log-probability now is `stream['old_logp']`, the sampler's `tokens.logp`; where the two agree the ratio is 1.
A row of the release is a rollout; the extremes of H and the largest Xi are those of the batch.
"""

import dataclasses
import functools
import math
import random

import forests
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.dynamo import dynamo


@functools.wraps(dynamo)
def modulated(batch, adv=None, **mode):
  del adv
  return dynamo(batch, batch.tokens.stream['adv'], **mode)


def twin(f, batch, *, least=.6, gamma=50., tau=.99, most=1.2, clip=.2):
  t = batch.tokens
  adv, h, now = (np.asarray(t.stream[k], float) for k in ('adv', 'entropy', 'old_logp'))
  before, out, change = np.asarray(t.logp, float), np.zeros(t.node.shape), {}
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  for sequence in forests.sequences(batch):
    said = [(r, c) for r, c, s, trained in sequence if trained and s in live]
    phi = {at: math.exp(now[at]) * (now[at] + h[at]) for at in said}
    for at in said:
      ratio = math.exp(now[at] - before[at])
      open_ = (adv[at] > 0 and ratio <= 1 + clip) or (adv[at] < 0 and ratio >= 1 - clip)
      change[at] = abs(open_ * ratio * adv[at] * (phi[at] - sum(phi.values()) / len(phi)))
  low, high = min(h[at] for at in change), max(h[at] for at in change)
  for at, x in change.items():
    up = 1 + (most - 1) * (high - h[at]) / (high - low) if adv[at] > 0 else 1.
    out[at] = adv[at] * up * (least + (1 - least) / (1 + math.exp(gamma * (x / max(change.values()) - tau))))
  return out


def example(p, entropy, adv, before=None, **kw):
  now, before = np.log([p]), np.log([before or p])
  return toy.batch([-1], n_tokens=len(p), task=0, logp=before, stream=dict(old_logp=now, entropy=[entropy], adv=[adv]), **kw)


def test_worked_example():
  # pi = .9 .2 .5, H = .3 1.8 1, A = 1: Xi = .052937 .084126 .031188, beta_stab = 1 .751017 1, beta_comp = 1.2 1 1.106667
  got = forests.run(modulated, example([.9, .2, .5], [.3, 1.8, 1.], [1., 1., 1.]))
  np.testing.assert_allclose(got, [[1.2, .751017, 1.106667]], atol=1e-5)


def test_negative_advantages_are_not_raised():
  got = forests.run(modulated, example([.9, .2, .5], [.3, 1.8, 1.], [-1., -1., -1.]))
  np.testing.assert_allclose(got, [[-1., -.751017, -1.]], atol=1e-5)


def test_what_is_clipped_is_not_damped():
  # the second token again, its ratio now 2: clipped, so Xi is 0 there and the first token's is the largest
  got = forests.run(modulated, example([.9, .2, .5], [.3, 1.8, 1.], [1., 1., 1.], [.9, .1, .5]))
  np.testing.assert_allclose(got, [[1.2 * .751017, 1., 1.106667]], atol=1e-5)
  # ratio 1/2, A > 0: not clipped, but Xi is half of .084126 = .042063; now the first is the largest, and x = .7946
  got = forests.run(modulated, example([.9, .2, .5], [.3, 1.8, 1.], [1., 1., 1.], [.9, .4, .5]))
  np.testing.assert_allclose(got, [[1.2 * .751017, .999977, 1.106667]], atol=1e-5)
  # ratio 2, A < 0: not clipped, Xi doubles; ratio 1/2, A < 0: clipped
  for before, expected in ((.1, [1.2, -.751017, 1.106667]), (.4, [1.2 * .751017, -1., 1.106667])):
    got = forests.run(modulated, example([.9, .2, .5], [.3, 1.8, 1.], [1., -1., 1.], [.9, before, .5]))
    np.testing.assert_allclose(got, [expected], atol=1e-5)


def test_nothing_to_compare():
  # one token: phi is its own mean and H its own extremes; no advantage: nothing
  np.testing.assert_allclose(forests.run(modulated, example([.5], [.7], [-2.])), [[-2.]], atol=1e-5)
  np.testing.assert_array_equal(forests.run(modulated, example([.5, .2], [.7, .1], [0., 0.])), [[0, 0]])


@functools.cache
def forest(seed, pack, ratio):
  f, rng = forests.chains(seed), random.Random(seed)
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  n = range(len(f.parent))
  batch = f.batch(toy, pack=pack, n_tokens=[rng.randint(1, 3) for _ in n], n_obs=[rng.randint(0, 1) for _ in n])
  draw, t = np.random.default_rng(seed), batch.tokens
  adv = np.asarray([*(rng.gauss(0, 1) if s in live else 0. for s in n), 0.])[np.asarray(t.node)]
  before = -draw.exponential(size=t.node.shape)
  now = before + np.log(draw.choice([1 / 2, .9, 1.1, 2.], size=t.node.shape)) if ratio else before
  batch = dataclasses.replace(batch, tokens=dataclasses.replace(t, logp=jnp.asarray(before, jnp.float32)))
  entropy = draw.uniform(0, 2, t.node.shape)
  return f, forests.with_stream(batch, adv=np.where(t.mask, adv, 0.), old_logp=now, entropy=entropy)


@pytest.mark.parametrize('seed, pack', [(0, 1), (1, 2), (2, 3)])
@pytest.mark.parametrize('ratio', [False, True])
def test_twin(seed, pack, ratio):
  f, batch = forest(seed, pack, ratio)
  got = forests.run(modulated, batch)
  assert got.shape == batch.tokens.node.shape
  np.testing.assert_allclose(got, twin(f, batch), rtol=1e-4, atol=2e-5)    # gamma 50 magnifies rounding
