"""The policy against a slow numpy twin of it, written from the papers, in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.models.cached import Cache, Shared, prepared, tables
from rlx.models.transformer import frequencies, split, transformer

VARIANTS = dict(
    plain=dict(),
    grouped=dict(kv_heads=2, qkv_bias=True, tied=False),
    normed=dict(qk_norm=True, head_dim=6, activation='relu2', embed_scale=True, ff=24),
    llama3=dict(rope_scaling=dict(rope_type='llama3', factor=8., low_freq_factor=1., high_freq_factor=4.,
                                  original_max_position_embeddings=64)))


def make(**kw):
  policy = transformer(**{**dict(vocab=23, layers=2, dim=16, heads=4), **kw})
  return policy, numbers(policy)


def numbers(policy):
  """Parameters of the right shapes, with no scale 1 and no bias 0; nothing is compiled for them."""
  draw = np.random.default_rng(0)

  def leaf(path, x):
    name, noise = path[-1].key, draw.normal(size=x.shape)
    return (noise / math.sqrt(x.shape[-2]) if name == 'kernel' else .3 * noise + (name == 'scale')).astype(np.float32)
  return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(policy.init, jax.random.key(0)))


def rows(*lengths, width):
  """One packed row: ids, position, last."""
  draw = np.random.default_rng(sum(lengths))
  ids, position, last, at = draw.integers(0, 23, width), np.zeros(width), np.zeros(width), 0
  for n in lengths:
    position[at:at + n], last[at:at + n], at = np.arange(n), at + n, at + n
  return tuple(x[None].astype(np.int32) for x in (ids, position, last))


def twin(c, params, ids, position, last):
  """Hidden states `[T, D]` of one row, token by token and head by head."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  norm = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + c.norm_eps) * w
  T = len(ids)
  x = p['embed']['table'][ids] * (math.sqrt(c.dim) if c.embed_scale else 1)
  rates = [c.rope_base ** (-2 * i / c.head_dim) for i in range(c.head_dim // 2)]
  s = dict(c.rope_scaling or ())
  if s:
    long, short = 64 / s['low_freq_factor'], 64 / s['high_freq_factor']
    for i, r in enumerate(rates):
      wave = 2 * math.pi / r
      smooth = (64 / wave - s['low_freq_factor']) / (s['high_freq_factor'] - s['low_freq_factor'])
      rates[i] = r / 8 if wave > long else r if wave < short else (1 - smooth) * r / 8 + smooth * r

  def turn(v, t):
    half, out = c.head_dim // 2, np.empty_like(v)
    for i, r in enumerate(rates):
      a = position[t] * r
      out[i], out[i + half] = v[i] * np.cos(a) - v[i + half] * np.sin(a), v[i + half] * np.cos(a) + v[i] * np.sin(a)
    return out
  for l in range(c.layers):
    w = jax.tree.map(lambda a: a[l], p['layers'])
    a, y = w['attention'], norm(x, w['attention_norm']['scale'])
    q, k, v = ((y @ a[n]['kernel'] + a[n].get('bias', 0)).reshape(T, -1, c.head_dim) for n in 'qkv')
    if c.qk_norm:
      q, k = norm(q, a['q_norm']['scale']), norm(k, a['k_norm']['scale'])
    q, k = (np.array([[turn(v, t) for v in z[t]] for t in range(T)]) for z in (q, k))
    out = np.zeros((T, c.heads, c.head_dim))
    for i in range(T):
      seen = [j for j in range(T) if j <= i < last[j]]
      for h in range(c.heads if seen else 0):
        g = h // (c.heads // c.kv_heads)
        e = np.array([np.exp(q[i, h] @ k[j, g] / math.sqrt(c.head_dim)) for j in seen])
        out[i, h] = sum(e[n] * v[j, g] for n, j in enumerate(seen)) / e.sum()
    x = x + out.reshape(T, -1) @ a['o']['kernel']
    y, m = norm(x, w['mlp_norm']['scale']), w['mlp']
    up = y @ m['up']['kernel']
    if c.activation == 'swiglu':
      gate = y @ m['gate']['kernel']
      up = gate / (1 + np.exp(-gate)) * up
    else:
      up = np.maximum(up, 0) ** 2
    x = x + up @ m['down']['kernel']
  return norm(x, p['norm']['scale'])


@pytest.mark.parametrize('name', VARIANTS)
def test_twin(name):
  policy, params = make(**VARIANTS[name])
  row = rows(11, 5, width=20)
  hidden, _ = jax.jit(policy.apply)(params, *row)
  np.testing.assert_allclose(hidden[0, :16], twin(policy.config, params, *(x[0] for x in row))[:16], atol=2e-5, rtol=2e-5)
  assert np.isfinite(hidden).all()
  head = params['head']['kernel'] if name == 'grouped' else params['embed']['table'].T
  np.testing.assert_array_equal(policy.head(params), head)


def test_twin_blocks():
  """A row of 128 is computed in two blocks of queries."""
  policy, params = make(layers=1, heads=1, dim=4)
  row = rows(30, 60, 38, width=128)
  hidden, _ = jax.jit(policy.apply)(params, *row)
  np.testing.assert_allclose(hidden[0], twin(policy.config, params, *(x[0] for x in row)), atol=2e-5, rtol=2e-5)


def test_packed_and_tree():
  policy, params = make()
  apply = jax.jit(policy.apply)
  ids, position, last = rows(7, 9, width=20)
  hidden, _ = apply(params, ids, position, last)
  for start, stop in ((0, 7), (7, 16)):
    n = stop - start
    alone, _ = apply(params, *(np.pad(x[:, start:stop], ((0, 0), (0, 20 - n)))
                               for x in (ids, position, np.full_like(ids, 0) + n)))
    np.testing.assert_allclose(hidden[:, start:stop], alone[:, :n], atol=2e-6)
  # a tree of two paths, 0 1 2 | 3 4 and 0 1 2 | 5 6, in preorder
  tree, _ = apply(params, *(np.pad(np.array([x], np.int32), ((0, 0), (0, 13))) for x in (
      [3, 1, 4, 1, 5, 9, 2], [0, 1, 2, 3, 4, 3, 4], [7, 7, 7, 5, 5, 7, 7])))
  for path in ([0, 1, 2, 3, 4], [0, 1, 2, 5, 6]):
    alone, _ = apply(params, *(np.pad(np.array([x], np.int32), ((0, 0), (0, 15))) for x in (
        np.array([3, 1, 4, 1, 5, 9, 2])[path], range(5), [5] * 5)))
    np.testing.assert_allclose(tree[0, path], alone[0, :5], atol=2e-6)


def test_same_gradient():
  """Unrolled or scanned, with and without remat, with `pick`, from stacked or split parameters."""
  row, pick = rows(11, 8, width=20), jnp.array([[3, 18, 3]], jnp.int32)

  def run(picked, divided=False, **kw):
    policy, params = make(kv_heads=2, **kw)

    def loss(params):
      params = split(params) if divided else params
      hidden = (policy.apply(params, *row, pick=pick)[0] if picked
                else jnp.take_along_axis(policy.apply(params, *row)[0], pick[..., None], axis=1))
      return jnp.sum(jnp.sin(3 * hidden))
    return jax.jit(jax.value_and_grad(loss))(params)

  value, grad = run(False, unroll=True)
  for case in (dict(picked=True, divided=True, remat='dots'), dict(picked=True, unroll=False, remat='full'),
               dict(picked=False, unroll=False)):
    other, other_grad = run(**case)
    np.testing.assert_allclose(other, value, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-4), other_grad, grad)


@pytest.mark.parametrize('ready', [False, True])
def test_cache(ready):
  """Fed in pieces, with a past and a turn, a row has the hidden states it has as a whole."""
  policy, params = make(kv_heads=2, qkv_bias=True, qk_norm=True)
  apply = jax.jit(policy.apply)
  ids, position, last = (np.concatenate([x] * 2) for x in rows(19, width=19))
  whole, _ = apply(params, ids, position, last)
  params = prepared(policy.config, params) if ready else params
  empty = functools.partial(tables, policy.config, 2)
  zero = jnp.zeros(2, jnp.int32)
  cache = Cache(past=empty(8), start=zero, length=zero, turn=empty(8), filled=jnp.int32(0))
  first, cache = apply(params, ids[:, :8], position[:, :8], np.full((2, 8), 8, np.int32), cache)
  cache = Cache(past=cache.turn, start=zero, length=zero + 8, turn=empty(11), filled=jnp.int32(0))
  parts = [first]
  for start, stop in ((8, 13), (13, 14), (14, 19)):
    end = np.full((2, stop - start), stop - start, np.int32)
    hidden, cache = apply(params, ids[:, start:stop], position[:, start:stop], end, cache)
    parts.append(hidden)
  np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=3e-6)
  assert int(cache.filled) == 11


def test_shared_past():
  """Three rows begin with the same eight tokens, of which they see 8, 5 and none in another's table; a stretch nobody sees stands beside."""
  policy, params = make(kv_heads=2)
  apply = jax.jit(policy.apply)
  ids, position, last = (np.concatenate([x] * 3) for x in rows(13, width=13))
  ids[1, 9:], ids[2, 8:] = ids[1, 9:][::-1], 2
  whole, _ = apply(params, ids, position, last)
  empty = functools.partial(tables, policy.config, 3)
  zero = jnp.zeros(3, jnp.int32)
  _, read = apply(params, ids[:, :8], position[:, :8], np.full((3, 8), 8, np.int32),
                  Cache(past=empty(0), start=zero, length=zero, turn=empty(8), filled=jnp.int32(0)))
  noise = lambda x: jnp.concatenate([jnp.full_like(x[:1], 7.), x[:1]])
  base = np.array([8, 5, 0], np.int32)
  own = lambda x: x.at[0].set(9.)        # what a row reads elsewhere may be anything here
  shared = Shared(tables=jax.tree.map(noise, read.turn), member=np.array([[0, 0], [1, 0]], np.int32),
                  place=np.array([3, 2, 0], np.int32), base=base)
  cache = Cache(past=jax.tree.map(own, read.turn), start=base, length=zero + 8, turn=empty(5), filled=jnp.int32(0), shared=shared)
  hidden, cache = apply(params, ids[:, 8:11], position[:, 8:11], np.full((3, 3), 3, np.int32), cache)
  parts = [hidden]
  for i in (11, 12):
    hidden, cache = apply(params, ids[:, i:i + 1], position[:, i:i + 1], np.ones((3, 1), np.int32), cache)
    parts.append(hidden)
  np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole[:, 8:], atol=3e-6)


def test_cache_hides():
  """`last` hides tokens of the call from later ones of it, as in a row; `pick` gives some of them."""
  policy, params = make()
  ids, position = np.array([[3, 1, 4, 1, 5]], np.int32), np.array([[0, 1, 2, 1, 2]], np.int32)
  last = np.array([[5, 3, 3, 5, 5]], np.int32)
  row, _ = jax.jit(policy.apply)(params, ids, position, last)
  empty, zero = functools.partial(tables, policy.config, 1), jnp.zeros(1, jnp.int32)
  cache = Cache(past=empty(2), start=zero, length=zero, turn=empty(5), filled=jnp.int32(0))
  apply = jax.jit(policy.apply)
  np.testing.assert_allclose(apply(params, ids, position, last, cache)[0], row, atol=2e-6)
  pick = np.array([[4, 1, 4]], np.int32)
  np.testing.assert_allclose(apply(params, ids, position, last, cache, pick=pick)[0][0], row[0, pick[0]], atol=2e-6)


def test_bfloat16():
  row = rows(11, 5, width=16)
  (policy, params), (half, _) = make(), make(dtype='bfloat16')
  apply = jax.jit(half.apply)
  hidden, _ = apply(params, *row)
  assert hidden.dtype == jnp.bfloat16 and all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
  want = np.asarray(jax.jit(policy.apply)(params, *row)[0])
  assert np.abs(np.asarray(hidden, np.float32) - want).mean() < .02 * np.abs(want).mean()
  again, _ = apply(split(params, 'bfloat16'), *row)
  np.testing.assert_array_equal(np.asarray(again, np.float32), np.asarray(hidden, np.float32))


def test_params():
  policy, _ = make(tied=False, qkv_bias=True, qk_norm=True, kv_heads=2)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  named = {jax.tree_util.keystr(path, simple=True, separator='/'): x.shape
           for path, x in jax.tree_util.tree_leaves_with_path(shapes)}
  assert named == {
      'embed/table': (23, 16), 'head/kernel': (16, 23), 'norm/scale': (16,),
      'layers/attention_norm/scale': (2, 16), 'layers/mlp_norm/scale': (2, 16),
      'layers/attention/q/kernel': (2, 16, 16), 'layers/attention/q/bias': (2, 16),
      'layers/attention/k/kernel': (2, 16, 8), 'layers/attention/k/bias': (2, 8),
      'layers/attention/v/kernel': (2, 16, 8), 'layers/attention/v/bias': (2, 8),
      'layers/attention/o/kernel': (2, 16, 16),
      'layers/attention/q_norm/scale': (2, 4), 'layers/attention/k_norm/scale': (2, 4),
      'layers/mlp/gate/kernel': (2, 16, 48), 'layers/mlp/up/kernel': (2, 16, 48), 'layers/mlp/down/kernel': (2, 48, 16)}
  deep = jax.jit(transformer(vocab=64, layers=4, dim=64, heads=1).init)(jax.random.key(1))
  std = lambda x: float(jnp.std(x))
  np.testing.assert_allclose(
      [std(deep['embed']['table']), std(deep['layers']['mlp']['up']['kernel']), std(deep['layers']['attention']['o']['kernel'])],
      [.5 / 8, 1 / 8, .5 / 8 / 2], rtol=.05)


def test_linear_scaling():
  plain = transformer(vocab=4, dim=8, heads=1).config
  scaled = transformer(vocab=4, dim=8, heads=1, rope_scaling=dict(type='linear', factor=4.)).config
  np.testing.assert_allclose(frequencies(scaled), frequencies(plain) / 4)
  np.testing.assert_allclose(frequencies(plain), 10000. ** -(np.arange(4) / 4), rtol=1e-6)


@pytest.mark.parametrize('kw, message', [
    (dict(dim=15), 'give head_dim'), (dict(kv_heads=3), 'multiple of kv_heads'), (dict(head_dim=3), 'odd'),
    (dict(activation='gelu'), 'swiglu'), (dict(remat='some'), 'dots'), (dict(rope_scaling=dict(rope_type='yarn')), 'llama3')])
def test_refuses(kw, message):
  with pytest.raises(ValueError, match=message):
    transformer(**{**dict(vocab=23, dim=16, heads=4), **kw})


def test_a_deep_model_is_not_copied_to_leave_its_last_layer_out():
  """The slice of a stack that a scan over all layers but one needs is as large as the model."""
  policy = transformer(vocab=16, layers=12, dim=32, heads=2, ff=512)
  params = jax.eval_shape(policy.init, jax.random.key(0))
  i = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  made = jax.jit(lambda p, ids, at, last, pick: policy.apply(p, ids, at, last, pick=pick)[0]).lower(
      params, i(1, 16), i(1, 16), i(1, 16), i(1, 4)).compile()
  weights = sum(x.size * 4 for x in jax.tree.leaves(params['layers']))
  assert made.memory_analysis().temp_size_in_bytes < weights / 4 and jax.tree.leaves(made.out_info)[0].shape == (1, 4, 32)
