"""`score`: a named model's log-probabilities, entropies and values as streams."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import config, toy
from rlx.learn.forward import forward
from rlx.transforms.score import score
from rlx.types import Model
from tests.policies import bag

POLICY = bag(vocab=16)
MODELS = {name: Model(POLICY, POLICY.init(jax.random.key(seed)), None) for name, seed in (('policy', 0), ('reference', 1))}
B = toy.batch([-1, 0, 0], task=0, n_tokens=2, n_obs=1, stream=dict(entropy=[.1, .2, .3]))


def said(name, **kw):
  return forward(POLICY, MODELS[name].params, B, **kw)


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_log_probabilities_and_entropies_of_a_named_model():
  got = score(B, models=MODELS, model='reference', into='ref_logp', temperature=.5)
  want = said('reference', temperature=.5)
  assert set(got.tokens.stream) == {'entropy', 'ref_logp', 'ref_logp_entropy'} and set(B.tokens.stream) == {'entropy'}
  close(got.tokens.stream['ref_logp'], want.logp)
  close(got.tokens.stream['ref_logp_entropy'], want.entropy)
  assert np.abs(np.asarray(want.logp - said('policy', temperature=.5).logp)).max() > .1
  sampled = np.asarray(B.tokens.sampled)
  assert not np.any(np.asarray(got.tokens.stream['ref_logp'])[~sampled]) and np.all(np.asarray(got.tokens.stream['ref_logp'])[sampled] < 0)
  for field in dataclasses.fields(B.tokens):
    if field.name != 'stream':
      assert getattr(got.tokens, field.name) is getattr(B.tokens, field.name)


def test_values():
  got = score(B, models=MODELS, head='value').tokens.stream
  assert set(got) == {'entropy', 'value/value'}
  close(got['value/value'], said('policy', heads=('value',)).value['value'])
  assert np.ptp(np.asarray(got['value/value'])[np.asarray(B.tokens.sampled)]) > .1


def test_nothing_asked_for():
  assert set(score(B, models=MODELS).tokens.stream) == {'entropy'}


def test_no_gradient_goes_through_it():
  def total(params):
    models = dict(policy=MODELS['policy']._replace(params=params))
    return jnp.sum(score(B, models=models, into='old_logp', head='value').tokens.stream['old_logp'])
  assert not any(np.any(g) for g in jax.tree.leaves(jax.grad(total)(MODELS['policy'].params)))


def test_rows_in_turn_say_the_same():
  two = jax.tree.map(lambda x: jnp.concatenate([x, x[::-1]]), B.tokens)
  streams = [score(dataclasses.replace(B, tokens=two), models=MODELS, into='old_logp', microbatch=m).tokens.stream for m in (None, 1)]
  jax.tree.map(close, *streams)


def test_a_model_that_is_not_there():
  with pytest.raises(KeyError, match=r"no model 'judge'; there are \['policy', 'reference'\]"):
    score(B, models=MODELS, model='judge', into='x')


def test_its_temperature_is_traced():
  bound = config.build('transform', dict(name='score', into='old_logp', temperature=.5))
  run = jax.jit(lambda b, floats: bound.call(b, floats=floats, models=MODELS, step=0, key=None).tokens.stream['old_logp'])
  for t in (.5, 2.):
    close(run(B, dict(temperature=np.float32(t))), said('policy', temperature=t).logp)
  assert run._cache_size() == 1


def test_tokens_with_a_temperature_of_their_own_keep_it():
  own = jnp.where(jnp.arange(B.tokens.ids.shape[1])[None] % 2 == 0, jnp.float32(.5), 0.) * jnp.ones(B.tokens.ids.shape, jnp.float32)
  b = dataclasses.replace(B, tokens=dataclasses.replace(B.tokens, stream=dict(temperature=own)))
  got = score(b, models=MODELS, into='old_logp', temperature=1.).tokens.stream['old_logp']
  close(got, said('policy', temperature=jnp.where(own > 0, own, 1.)).logp)
  assert np.abs(np.asarray(got - said('policy').logp)).max() > .01
