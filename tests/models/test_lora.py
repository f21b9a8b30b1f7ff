"""Adapters and frozen layers: what they compute, their gradients, and the way back to plain parameters."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.grow import sampling
from rlx.learn.forward import forward
from rlx.learn.partition import combine, partition
from rlx.models import lora
from rlx.models.transformer import transformer
from rlx.types import Tokens

SIZES = dict(vocab=23, layers=3, dim=16, heads=4, kv_heads=2, ff=24, qkv_bias=True)
WAYS = dict(adapters=dict(lora=dict(rank=3, alpha=6.)), frozen=dict(freeze=2), both=dict(freeze=1, lora=dict(rank=2, targets=('q', 'down'))))


@functools.cache
def model(**kw):
  """A policy and its parameters, with adapters that do something; lists stand for dicts."""
  policy = transformer(**SIZES, **{k: dict(v) if isinstance(v, tuple) else v for k, v in kw.items()})
  draw = np.random.default_rng(0)
  def leaf(path, x):
    return jnp.asarray(draw.normal(size=x.shape) * .3, jnp.float32) if path[-1].key in ('lora_b', 'bias') else x
  return policy, jax.tree_util.tree_map_with_path(leaf, jax.jit(policy.init)(jax.random.key(0)))


def made(way, **more):
  return model(**{k: tuple(v.items()) if isinstance(v, dict) else v for k, v in {**WAYS[way], **more}.items()})


def tokens(rows=3, width=10):
  draw, one = np.random.default_rng(1), np.ones((rows, width), bool)
  place = jnp.asarray(np.broadcast_to(np.arange(width), one.shape), jnp.int32)
  zero = jnp.zeros_like(place)
  return Tokens(ids=jnp.asarray(draw.integers(0, 23, one.shape), jnp.int32), node=zero, segment=zero, position=place,
                sampled=jnp.asarray(one), mask=jnp.asarray(one), logp=jnp.zeros(one.shape), role={}, stream={})


def said(policy, params, t=None):
  """Log-probabilities and entropies of the tokens."""
  return jax.jit(functools.partial(forward, policy))(params, tokens() if t is None else t)


def loss(policy, params):
  out = forward(policy, params, tokens())
  return jnp.sum(jnp.sin(out.logp)) + .1 * jnp.sum(out.entropy)


@pytest.mark.parametrize('way', WAYS)
def test_the_start_is_the_plain_policy(way):
  """Fresh adapters change nothing, and a seed gives the base it gives without them."""
  policy, plain = transformer(**SIZES, **WAYS[way]), transformer(**SIZES)
  params, want = (jax.jit(p.init)(jax.random.key(4)) for p in (policy, plain))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), lora.whole(params), want)
  np.testing.assert_allclose(said(policy, params).logp, said(plain, want).logp, atol=1e-6)


@pytest.mark.parametrize(('way', 'how'), [('adapters', dict()), ('both', dict()), ('adapters', dict(unroll=False)),
                                          ('frozen', dict(unroll=False)), ('both', dict(unroll=False, remat='full'))])
def test_merged_says_the_same(way, how):
  policy, params = made(way, **how)
  plain = transformer(**SIZES, **how)
  out = said(policy, params)
  for same in (said(plain, lora.whole(params)), said(policy, lora.merged(params))):
    np.testing.assert_allclose(out.logp, same.logp, atol=1e-5)
  if way != 'frozen':
    fresh = jax.jit(policy.init)(jax.random.key(0))
    assert np.abs(out.logp - said(policy, fresh).logp).max() > .1, 'these adapters say nothing'
  for whole in (lora.merged(params), lora.whole(params)):
    assert not any('lora' in str(p) for p, _ in jax.tree_util.tree_leaves_with_path(whole))


@pytest.mark.parametrize('way', WAYS)
def test_the_layout_and_back(way):
  policy, params = made(way)
  fresh = jax.jit(policy.init)(jax.random.key(9))
  back = lora.arranged(lora.whole(params), fresh)
  assert jax.tree.structure(back) == jax.tree.structure(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), lora.whole(back), lora.whole(params))
  small = transformer(**{**SIZES, 'layers': 2})
  small = jax.eval_shape(small.init, jax.random.key(0))
  with pytest.raises(ValueError, match=r"layers/attention/k/bias' is \(2, 8\) in the one and \(3, 8\)"):
    lora.arranged(small, fresh)


# ---- gradients ---------------------------------------------------------------------------------------------------------

def test_gradients_of_adapters_are_those_of_the_kernel_projected():
  """y = x (W + s A B): dA = s dW B', dB = s A' dW, with dW of the plain policy at the merged kernel; and finite differences."""
  policy, params = made('adapters')
  trained, base = partition(params, policy.trainable)
  value = jax.jit(lambda p: loss(policy, combine(p, base)))
  got = jax.jit(jax.grad(value))(trained)
  dense = jax.jit(jax.grad(functools.partial(loss, transformer(**SIZES))))(lora.whole(params))
  for name, group in lora.TARGETS.items():
    w, dw, g = params['layers'][group][name], dense['layers'][group][name]['kernel'], got['layers'][group][name]
    assert g['kernel'] is None and g['lora_scale'] is None
    np.testing.assert_allclose(g['lora_a'], 2. * dw @ w['lora_b'].swapaxes(1, 2), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(g['lora_b'], 2. * w['lora_a'].swapaxes(1, 2) @ dw, rtol=1e-3, atol=1e-4)
  draw = np.random.default_rng(2)
  way = jax.tree.map(lambda x: draw.normal(size=x.shape), trained)
  size = np.sqrt(sum((x ** 2).sum() for x in jax.tree.leaves(way)))
  way = jax.tree.map(lambda x: (x / size).astype(np.float32), way)
  ahead, behind = (value(jax.tree.map(lambda x, d, h=h: x + h * d, trained, way)) for h in (4e-3, -4e-3))
  slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(way), strict=True))
  np.testing.assert_allclose((ahead - behind) / 8e-3, slope, rtol=2e-2, atol=5e-3)


@pytest.mark.parametrize('how', [dict(), dict(unroll=False)], ids=['unrolled', 'scanned'])
def test_gradients_of_upper_layers_are_the_whole_ones(how):
  policy, params = made('frozen', **how)
  trained, base = partition(params, policy.trainable)
  assert set(trained['layers']['mlp']) == {'gate', 'up', 'down'} and not jax.tree.leaves((trained['embed'], trained['lower']))
  got = jax.jit(jax.grad(lambda p: loss(policy, combine(p, base))))(trained)
  dense = jax.jit(jax.grad(functools.partial(loss, transformer(**SIZES, **how))))(lora.whole(params))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[2:], rtol=1e-4, atol=1e-5), got['layers'], dense['layers'])
  np.testing.assert_allclose(got['norm']['scale'], dense['norm']['scale'], rtol=1e-4, atol=1e-5)


@functools.cache
def cost(**kw):
  """(flops forward, flops of the gradient beside them, bytes of temporary memory of the gradient), compiled, 4 layers.

  XLA counts the flops of a loop's body once, however often it runs.
  """
  policy = transformer(vocab=64, layers=4, dim=64, heads=4, ff=192, **{k: dict(v) if isinstance(v, tuple) else v for k, v in kw.items()})
  trained, base = partition(jax.eval_shape(policy.init, jax.random.key(0)), policy.trainable)
  value = lambda p, b, t: jnp.sum(forward(policy, combine(p, b), t).logp)
  forth, grad = (jax.jit(f).lower(trained, base, tokens(8, 64)).compile() for f in (value, jax.grad(value)))
  flops = forth.cost_analysis()['flops']
  return flops, grad.cost_analysis()['flops'] - flops, grad.memory_analysis().temp_size_in_bytes


def test_frozen_layers_are_neither_kept_nor_computed_again():
  """With 3 of 4 layers frozen; the head, whose hidden states have a gradient, is the rest."""
  (forth, every, kept), (_, top, left) = cost(unroll=True), cost(unroll=True, freeze=3)
  assert left < .4 * kept, (left, kept)
  assert top < .29 * every, (top, every)
  (_, _, kept), (_, top, left) = cost(unroll=False), cost(unroll=False, freeze=3)
  assert left < .4 * kept, (left, kept)
  again = cost(unroll=False, remat='full', freeze=3)[1] - top
  assert .5 * forth / 4 < again < 1.1 * forth / 4, 'remat computes more again than the layer that is trained'


def test_no_gradient_of_a_frozen_kernel_is_computed():
  """Of two products backward, by the inputs and by the kernel, the second falls away."""
  forth, every, _ = cost(unroll=True)
  assert 1.9 * forth < every < 2.1 * forth
  forth, adapters, _ = cost(unroll=True, lora=(('rank', 2),))
  assert adapters < 1.3 * forth, (adapters, forth)


# ---- sampling ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('way', WAYS)
def test_the_sampler_says_what_the_policy_says(way):
  """With parameters prepared once, and with those of training."""
  policy, params = made(way)
  s = sampling.make(policy, limit=4, stop_ids=())
  t, rows = tokens(), np.arange(3, dtype=np.int32)
  want = np.asarray(said(policy, params, t).logp)
  for given in (params, s.prepare(params)):
    slots, logp = s.extend(given, s.empty(3, 16), rows, np.asarray(t.ids), np.full(3, 10, np.int32), score=True)
    np.testing.assert_allclose(np.asarray(logp)[:, 1:], want[:, 1:], atol=1e-4)
    _, drawn = s.decode(given, slots, rows, np.ones(3, bool), np.full(3, 4, np.int32), np.zeros((3, 2), np.uint32), sampling.settings(3))
    whole = dataclasses.replace(tokens(width=14), ids=jnp.concatenate([t.ids, drawn.ids], axis=1))
    np.testing.assert_allclose(drawn.logp, said(policy, params, whole).logp[:, 10:], atol=1e-4)


def test_prepared_parameters():
  """The table of a model in float32 is shared, not copied; kernels are merged, transposed and in the dtype of the computation."""
  policy, params = made('both')
  ready = sampling.make(policy, limit=4, stop_ids=()).prepare(params)
  assert ready['embed']['table'].unsafe_buffer_pointer() == params['embed']['table'].unsafe_buffer_pointer()
  half = transformer(**SIZES, dtype='bfloat16', lora=dict(rank=2, targets='q'))
  given = half.init(jax.random.key(0))
  layer = sampling.make(half, limit=4, stop_ids=()).prepare(given)['layers'][0]
  assert set(layer['attention']) == {'qkv', 'o'} and set(layer['mlp']) == {'gate_up', 'down'}
  qkv = layer['attention']['qkv']
  assert qkv['weight'].dtype == jnp.bfloat16 and set(qkv) == {'weight', 'bias'}
  assert qkv['weight'].shape[0] == sum(given['layers']['attention'][n]['kernel'].shape[2] for n in 'qkv') == len(qkv['bias'])


# ---- what is asked for -------------------------------------------------------------------------------------------------

def test_what_is_trained():
  def names(**kw):
    policy = transformer(**SIZES, tied=False, **kw)
    params = {**jax.eval_shape(policy.init, jax.random.key(0)), 'heads': dict(v=dict(lora=jax.ShapeDtypeStruct((1,), jnp.float32)))}
    trained, base = partition(params, policy.trainable)
    assert len(jax.tree.leaves(trained)) + len(jax.tree.leaves(base)) == len(jax.tree.leaves(params))
    assert combine(trained, base) == params
    return {jax.tree_util.keystr(p, simple=True, separator='/') for p, _ in jax.tree_util.tree_leaves_with_path(trained)}
  assert transformer(**SIZES).trainable is None
  assert names(lora=dict(targets=('q',), rank=1)) == {'heads/v/lora', 'layers/attention/q/lora_a', 'layers/attention/q/lora_b'}
  frozen = names(freeze=1)
  assert {'norm/scale', 'head/kernel', 'heads/v/lora', 'layers/mlp/up/kernel', 'layers/attention_norm/scale'} <= frozen
  assert not any(n.startswith(('embed', 'lower')) for n in frozen)


@pytest.mark.parametrize(('kw', 'message'), [
    (dict(lora=dict(rank=0)), 'lora.rank must be a whole number of at least 1, not 0'), (dict(lora=dict(rank=2.)), 'not 2.0'),
    (dict(lora=dict(rnak=2)), "no keyword 'rnak'; it takes rank, alpha, targets"), (dict(lora=dict(alpha=0)), 'lora.alpha must be positive'),
    (dict(lora=dict(targets=('q', 'query'))), r"some of \('q', 'k', .*, not \('q', 'query'\)"), (dict(lora=dict(targets=())), 'not \\(\\)'),
    (dict(lora=dict(targets='gate'), activation='relu2'), "some of .*'up', 'down'\\), which the layers have"),
    (dict(freeze=3), 'freeze=3 must be a whole number of layers, 0 to 2'), (dict(freeze=-1), 'freeze=-1'), (dict(freeze=True), 'freeze=True')])
def test_refuses(kw, message):
  with pytest.raises(ValueError, match=message):
    transformer(**SIZES, **kw)
