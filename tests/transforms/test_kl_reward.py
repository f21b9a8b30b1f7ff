"""`kl_reward`: the divergence from a reference as a reward a token; estimators of verl-project/verl@1dda039 `kl_penalty`."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import config, testing, toy
from rlx.estimators.gae import gae
from rlx.transforms import kl_reward as module
from rlx.transforms.kl_reward import kl_reward


def twin(logp, ref, kind):
  """One token, d = log reference - log behaviour."""
  d = ref - logp
  if kind == 'k3':
    d = min(max(d, -20.), 20.)
    return min(max(math.exp(d) - d - 1, -10.), 10.)
  return dict(k1=-d, abs=abs(d), k2=d * d / 2)[kind]


def kl(batch, **mode):
  """The divergence that was charged, and nothing but that stream touched."""
  got = kl_reward(batch, coef=1., **mode)
  into = mode.get('into', 'reward')
  assert set(got.tokens.stream) == set(batch.tokens.stream) | {into} and got.nodes is batch.nodes
  assert all(got.tokens.stream[k] is v for k, v in batch.tokens.stream.items() if k != into)
  same = [f.name for f in dataclasses.fields(got.tokens) if f.name != 'stream']
  assert all(getattr(got.tokens, name) is getattr(batch.tokens, name) for name in same)
  return -np.asarray(got.tokens.stream[into])


@pytest.mark.parametrize('kind, value', [('k1', .22314), ('k2', .024897), ('k3', .023144), ('abs', .22314)])
def test_worked_example_of_verl(kind, value):
  # pi = .5, reference .4
  b = toy.batch([-1], logp=math.log(.5), stream=dict(ref_logp=[math.log(.4)]), task=0)
  np.testing.assert_allclose(kl(b, kind=kind), [[value]], atol=5e-6)
  np.testing.assert_allclose(kl_reward(b, kind=kind).tokens.stream['reward'], [[-.001 * value]], atol=1e-8)


@pytest.mark.parametrize('kind, values', [
    ('k1', [-5, 5, -30, 30, 0]), ('abs', [5, 5, 30, 30, 0]), ('k2', [12.5, 12.5, 450, 450, 0]), ('k3', [10, 4.006738, 10, 10, 0])])
def test_large_differences(kind, values):
  # d = 5 -5 30 -30 0; k3 alone is bounded: exp(5) - 6 = 142.4 and exp(-20) + 19 become 10
  b = toy.batch([-1], n_tokens=5, task=0, logp=[[-40.] * 5], stream=dict(ref_logp=[[-35., -45., -10., -70., -40.]]))
  np.testing.assert_allclose(kl(b, kind=kind), [values], rtol=1e-5, atol=1e-5)


def test_only_trained_tokens_and_each_once():
  # step 0 is shared: its tokens are charged in the row that trains it; observations never
  b = toy.batch([-1, 0, 0], n_tokens=[2, 1, 1], n_obs=1, task=0, logp=-1., stream=dict(ref_logp=[[-3.] * 5] * 2))
  np.testing.assert_array_equal(kl(b), [[0, 2, 2, 0, 2], [0, 0, 0, 0, 2]])


def test_behaviour_and_names():
  b = toy.batch([-1, -1], task=0, logp=[-1., -2.], stream=dict(old_logp=[-3., -4.], other=[-3.5, -6.], reward=[7., 7.]))
  np.testing.assert_allclose(kl(b, ref='other'), [[2.5], [4.]])
  np.testing.assert_allclose(kl(b, ref='other', behaviour='old_logp'), [[.5], [2.]])
  np.testing.assert_allclose(kl(b, ref='other', into='penalty'), [[2.5], [4.]])


@pytest.mark.parametrize('kind', ['k1', 'k2', 'k3', 'abs'])
def test_random_batch(kind):
  """Jitted, `coef` traced."""
  b = testing.batch()
  bound = config.build('transform', dict(name='kl_reward', coef=.5, kind=kind))
  got = jax.jit(lambda b, floats: bound.call(b, floats=floats).tokens.stream['reward'])(b, bound.floats())
  logp, ref, mask = (np.asarray(x).tolist() for x in (b.tokens.logp, b.tokens.stream['ref_logp'], b.tokens.mask))
  want = [[-.5 * twin(*token[:2], kind) if token[2] else 0. for token in zip(*rows, strict=True)]
          for rows in zip(logp, ref, mask, strict=True)]
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_an_estimator_reads_it():
  # r_t = -.1 (logp - ref) = -.05 -.1, the episode's 1 at its end: returns .85 .9
  b = toy.batch([-1], n_tokens=2, task=1, logp=[[-1., -1.]], stream={'ref_logp': [[-1.5, -2.]], 'value/value': [[0., 0.]]})
  got = gae(kl_reward(b, coef=.1), token_reward='reward', whiten=False)
  np.testing.assert_allclose(got.adv, [[.85, .9]], atol=1e-6)


def test_what_it_says():
  assert module.writes == ('stream/reward',)
  with pytest.raises(ValueError, match='k4'):
    kl_reward(toy.batch([-1], task=0, stream=dict(ref_logp=[0.])), kind='k4')
