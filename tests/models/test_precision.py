"""bfloat16 computation on float32 parameters: what is in which type, and how far the sampler is from the scorer."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble
from rlx.grow import sampling
from rlx.learn import objective, state
from rlx.learn.forward import forward
from rlx.learn.partition import combine, partition
from rlx.models.transformer import transformer
from tests.learn.test_state import B, KEY, ROWS
from tests.models.test_lora import tokens

SIZES = dict(vocab=64, layers=2, dim=32, heads=5, head_dim=8, ff=56, dtype='bfloat16')
WAYS = dict(all={}, adapters=dict(lora=dict(rank=3)))


def filled(policy, seed=0):
  """Parameters with adapters that do something."""
  draw = np.random.default_rng(seed)
  def leaf(path, x):
    return jnp.asarray(draw.normal(size=x.shape) * .02, jnp.float32) if path[-1].key == 'lora_b' else x
  return jax.tree_util.tree_map_with_path(leaf, jax.jit(policy.init)(jax.random.key(seed)))


@pytest.mark.parametrize('way', WAYS)
def test_products_are_bfloat16_and_all_that_is_kept_is_float32(way):
  """A gradient and an update: kernels are read and written in float32, each product with one has two bfloat16 factors."""
  policy = transformer(**SIZES, **WAYS[way])
  trained, base = partition(filled(policy), policy.trainable)
  value = lambda p: jnp.sum(forward(policy, combine(p, base), tokens()).logp)
  text = jax.jit(jax.grad(value)).lower(trained).as_text()
  products = re.findall(r'dot_general .*: \(tensor<([0-9x]+)x(\w+)>, tensor<([0-9x]+)x(\w+)>\)', text)
  kernels = [(a, b) for x, a, y, b in products if {'40', '56', '112', '120'} & {*x.split('x'), *y.split('x')}]
  assert len(kernels) >= 2 * (4 if way == 'all' else 7) * 2 and set(kernels) == {('bf16', 'bf16')}   # qkv and gate_up are one each
  tracks = assemble.tracks(dict(main=dict(estimator='grpo', loss=('ppo_clip', dict(name='kl', coef=.1)))))
  credits = jax.jit(lambda b: objective.credit(tracks, objective.floats(tracks, 0), objective.init(tracks), b, step=jnp.int32(0), key=KEY)[1])(B)
  tx = assemble.optimizer(dict(name='adamw', learning_rate=1e-3))
  update = state.update(tracks, policy, tx, temperature=1.)
  before = jax.device_get(trained)
  st, seen = update(state.create(trained, tx, tracks), B, credits, ROWS, objective.floats(tracks, 0), KEY, base)
  held = [x for x in jax.tree.leaves((st.params, st.opt_state)) if jnp.issubdtype(x.dtype, jnp.floating)]
  assert {x.dtype for x in held} == {jnp.dtype('float32')} and all(x.dtype == jnp.float32 for x in jax.tree.leaves(seen))
  # steps of 1e-3 on parameters around 0.2 are below what bfloat16 tells apart; the masters take them
  moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(jax.device_get(st.params)), strict=True)]
  assert seen['skipped'] == 0 and 5e-4 < min(moved) and max(moved) < 2e-3
  out = forward(policy, combine(st.params, base), tokens(), heads=())
  assert out.logp.dtype == out.entropy.dtype == jnp.float32


@pytest.mark.parametrize(('dtype', 'mean', 'worst'), [('float32', 1e-5, 1e-4), ('bfloat16', .03, .2)])
@pytest.mark.parametrize('way', WAYS)
def test_the_sampler_against_the_scorer(way, dtype, mean, worst):
  """Log-probabilities of what was drawn, T = 1, as the sampler gave them and as training scores them."""
  policy = transformer(vocab=256, layers=4, dim=64, heads=4, kv_heads=2, ff=192, tied=False, dtype=dtype, unroll=False, **WAYS[way])
  params, s, n = filled(policy), sampling.make(policy, limit=24, stop_ids=()), 8
  ready, rows = s.prepare(params), np.arange(n, dtype=np.int32)
  ids = np.random.default_rng(1).integers(0, 256, (n, 16)).astype(np.int32)
  slots, _ = s.extend(ready, s.empty(n, 40), rows, ids, np.full(n, 16, np.int32))
  slots, drawn = s.decode(ready, slots, rows, np.ones(n, bool), np.full(n, 24, np.int32),
                          np.asarray(jax.random.key_data(jax.random.split(jax.random.key(5), n))), sampling.settings(n))
  assert {x.dtype for x in jax.tree.leaves(slots.cache)} == {jnp.dtype(dtype)} and drawn.logp.dtype == jnp.float32
  t = dataclasses.replace(tokens(n, 40), ids=jnp.concatenate([ids, drawn.ids], axis=1))
  gap = np.abs(jax.jit(functools.partial(forward, policy))(params, t).logp[:, 16:] - drawn.logp)
  assert gap.mean() < mean and gap.max() < worst, (gap.mean(), gap.max())
  if dtype == 'bfloat16':
    assert gap.max() > 1e-3, 'this was not bfloat16'
