"""The transformer on new tokens with a cache: what the sampler runs.

Everything here is feature-major: activations are `[D, N]` for the N = R * T new tokens, weights `[outputs, inputs]`. A product of a
large matrix with few columns then reads the matrix as it lies (on a CPU a quarter faster for 32 rows than `[N, D] @ [D, F]`).

Dims: `R` rows, `T` new tokens, `S` cached tokens, `G` tokens of a turn, `P` shared stretches, `n` rows of one of them.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rlx.models.lora import merged
from rlx.types import Array, struct

HIDDEN = -1e30   # score of a token that is not seen; finite, so that a row that sees nothing stays finite


@struct
class Shared:
  """Stretches of context that several rows begin with: read once for all of them (a cascade, as in arXiv:2402.05099).

  Row r stands at `place[r]` of the flattened `[P, n]` grid and sees the first `base[r]` tokens of that stretch.
  """
  tables: list    # a layer: (k, v), each [P, K, S, Dh]
  member: Array   # [P, n] i32  row at each place; any where nobody stands
  place: Array    # [R] i32
  base: Array     # [R] i32  0: the row shares nothing


@struct
class Cache:
  """What a call may look back on, and where it leaves its own keys and values.

  A token sees what `shared` gives its row, the tokens [`start`, `length`) of `past`, the first `filled` of `turn`, and the tokens
  it is fed with by the rule of `last` (counted in the call's own tokens). Its key goes to slot `filled` of `turn`, common to all
  rows, so that a token loop writes by a plain slice; `past` and `shared` are only read.
  """
  past: list      # a layer: (k, v), each [R, K, S, Dh]; S may be 0
  start: Array    # [R] i32
  length: Array   # [R] i32
  turn: list      # a layer: (k, v), each [R, K, G, Dh]
  filled: Array   # i32 scalar; at most G minus the tokens of the call
  shared: Shared | None = None


def tables(config, rows: int, width: int, dtype: str | None = None) -> list:
  """Empty keys and values of all layers: (k, v), each `[R, K, S, Dh]`."""
  shape = rows, config.kv_heads, width, config.head_dim
  return [tuple(jnp.zeros(shape, dtype or config.dtype) for _ in 'kv') for _ in range(config.layers)]


def prepared(config, params):
  """Parameters as `cached` reads them: a list of layers, kernels as 'weight' `[outputs, inputs]` in the dtype of the computation,
  those that read the same input in one ('qkv', 'gate_up'), adapters merged.

  Done once for many calls: it copies every kernel. Of prepared parameters a second call changes nothing.
  """
  layers = params['layers']
  if isinstance(layers, list) and 'qkv' in layers[0]['attention']:
    return params
  if not isinstance(layers, list):
    params = merged(params)
    stacks = [params[name] for name in ('lower', 'layers') if name in params]
    layers = [jax.tree.map(lambda x: x[i], s) for s in stacks for i in range(jax.tree.leaves(s)[0].shape[0])]
  cast = lambda x: x.astype(config.dtype)

  def leaf(w):
    if not isinstance(w, dict):
      return w
    if 'kernel' not in w:
      return {k: leaf(v) for k, v in w.items()}
    return dict(weight=jnp.swapaxes(cast(w['kernel']), -1, -2), **{k: cast(v) for k, v in w.items() if k != 'kernel'})

  def layer(w):
    w = leaf(w)
    a, m = dict(w['attention']), dict(w['mlp'])
    join = lambda d, names: jax.tree.map(lambda *xs: jnp.concatenate(xs), *(d.pop(n) for n in names))
    a['qkv'] = join(a, 'qkv')
    if 'gate' in m:
      m['gate_up'] = join(m, ('gate', 'up'))
    return dict(w, attention=a, mlp=m)
  out = {k: v for k, v in params.items() if k != 'lower'}
  out |= dict(layers=list(map(layer, layers)), embed=jax.tree.map(cast, params['embed']))
  return dict(out, head=leaf(params['head'])) if 'head' in params else out


def cached(c, rates: np.ndarray, params, ids: Array, position: Array, last: Array, cache: Cache, pick: Array | None):
  """As `Policy.apply` with a cache: (hidden `[R, T or P, D]`, cache). params: as `prepared` makes them, or not."""
  params = prepared(c, params)
  rows, count = ids.shape
  x = params['embed']['table'][ids.ravel()].T
  if c.embed_scale:
    x = x * math.sqrt(c.dim)
  rotation = _rotation(position, rates)
  seen, seen_last = _sight(cache, last, pick)
  turn, taken = [], rotation
  for i, w in enumerate(params['layers']):
    y = _norm(c, x, w['attention_norm'])
    a, final = w['attention'], i == c.layers - 1 and pick is not None
    q, k, v = jnp.split(_heads(c, y, a['qkv']), (c.heads, c.heads + c.kv_heads))
    if final:      # of the last layer only these are wanted
      at = (jnp.arange(rows, dtype=jnp.int32)[:, None] * count + pick).ravel()
      x, q = x[:, at], q[..., at]
      taken = tuple(r[:, at] for r in rotation)
    if c.qk_norm:
      q, k = _norm(c, q, a['q_norm']), _norm(c, k, a['k_norm'])
    q, k = _rotate(q, taken) / math.sqrt(c.head_dim), _rotate(k, rotation)
    new = _put(cache.turn[i], _tokens(k, rows), _tokens(v, rows), cache.filled)
    picks = q.shape[2] // rows
    q = q.reshape(c.kv_heads, c.heads // c.kv_heads, c.head_dim, rows, picks)
    q = jnp.transpose(q, (3, 0, 1, 4, 2)).reshape(rows, c.kv_heads, -1, c.head_dim)
    sight = seen_last if final else seen
    states = [state(q, [(*cache.past[i], sight[0]), (*new, sight[1])])]
    if cache.shared is not None:
      states.append(shared_state(q, cache.shared, i, picks))
    out = normalised(states).astype(c.dtype).reshape(rows, c.kv_heads, -1, picks, c.head_dim)
    x = x + _dense(jnp.transpose(out, (1, 2, 4, 0, 3)).reshape(-1, rows * picks), a['o'])
    y, m = _norm(c, x, w['mlp_norm']), w['mlp']
    if c.activation == 'swiglu':
      gate, up = jnp.split(_dense(y, m['gate_up']), 2)
      y = jax.nn.silu(gate) * up
    else:
      y = jnp.square(jax.nn.relu(_dense(y, m['up'])))
    x = x + _dense(y, m['down'])
    turn.append(new)
  hidden = _norm(c, x, params['norm']).T.reshape(rows, -1, c.dim)
  return hidden, Cache(past=cache.past, start=cache.start, length=cache.length, turn=turn, filled=cache.filled + count,
                       shared=cache.shared)


# ---- dense parts, `[D, N]` -----------------------------------------------------------------------------------------

def _dense(x, w):
  y = w['weight'] @ x
  return y + w['bias'][:, None] if 'bias' in w else y


def _heads(c, y, w):
  return (lambda z: z.reshape(-1, c.head_dim, z.shape[1]))(_dense(y, w))


def _norm(c, x, w):
  """RMSNorm over the features, the axis before the last."""
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -2, keepdims=True) + c.norm_eps)
  return (y * w['scale'].reshape((1,) * (x.ndim - 2) + (-1, 1))).astype(c.dtype)


def _rotation(position, rates):
  """(cos, sin) `[Dh / 2, N]` of each token's angles."""
  angle = rates[:, None] * position.ravel().astype(jnp.float32)[None]
  one = jnp.eye(len(rates), dtype=jnp.float32)   # XLA fuses nothing into a product; else every layer computes the angles again
  return tuple(jnp.dot(one, f(angle), precision='highest') for f in (jnp.cos, jnp.sin))


def _rotate(x, rotation):
  """Rotates pairs (i, i + Dh / 2) of x `[heads, Dh, N]` by the angles of each token."""
  cos, sin = (z[None].astype(x.dtype) for z in rotation)
  a, b = jnp.split(x, 2, axis=1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=1)


def _tokens(x, rows):
  """`[K, Dh, R * T]` as a cache holds it: `[R, K, T, Dh]`."""
  return jnp.transpose(x.reshape(*x.shape[:2], rows, -1), (2, 0, 3, 1))


def _put(table, k, v, at):
  old_k, old_v = table
  return (jax.lax.dynamic_update_slice(old_k, k.astype(old_k.dtype), (0, 0, at, 0)),
          jax.lax.dynamic_update_slice(old_v, v.astype(old_v.dtype), (0, 0, at, 0)))


# ---- attention -----------------------------------------------------------------------------------------------------

def _sight(cache, last, pick):
  """What is seen of past and turn: (`[R, T or 1, S]` bool, `[R, T, G]` bool), and the same for the picked tokens."""
  rows, count = last.shape
  filled, slots, width = cache.filled, cache.turn[0][0].shape[2], cache.past[0][0].shape[2]
  until = jnp.full((rows, slots), np.iinfo(np.int32).max, jnp.int32)   # what was fed before is seen by all
  until = jax.lax.dynamic_update_slice(until, filled + last, (0, filled))
  j = jnp.arange(width, dtype=jnp.int32)[None, None]
  past = (cache.start[:, None, None] <= j) & (j < cache.length[:, None, None])
  here = jnp.broadcast_to(filled + jnp.arange(count, dtype=jnp.int32), (rows, count))
  return (past, visible(here, until)), (past, None if pick is None else visible(filled + pick, until))


def visible(at, until):
  """`[R, P, S]` bool: key j is seen from place i iff j <= i < until[j]. at: `[R, P]`, until: `[R, S]`."""
  i, j = at[..., None], jnp.arange(until.shape[1], dtype=jnp.int32)[None, None]
  return (j <= i) & (i < until[:, None])


def state(q, tables):
  """Attention of q `[R, K, M, Dh]` to tables (k, v `[R, K, S, Dh]`, seen `[R, T or 1, S]`), not yet divided.

  Query m = (head of the group, token t). Returns (out `[R, K, M, Dh]`, top `[R, K, M, 1]`, total `[R, K, M, 1]`).
  """
  rows, groups, queries, _ = q.shape
  f32 = dict(preferred_element_type=jnp.float32)

  def scores(k, seen):
    score = _products(q, k.astype(q.dtype))
    score = score.reshape(rows, groups, -1, seen.shape[1] if seen.shape[1] > 1 else queries, k.shape[2])
    return jnp.where(seen[:, None, None], score, HIDDEN).reshape(rows, groups, queries, -1)
  found = [(scores(k, seen), v) for k, v, seen in tables if v.shape[2]]
  top = functools.reduce(jnp.maximum, (s.max(-1, keepdims=True) for s, _ in found))
  weighed = [(jnp.exp(s - top), v) for s, v in found]
  out = sum(jnp.einsum('rkms,rksd->rkmd', w.astype(q.dtype), v.astype(q.dtype), **f32) for w, v in weighed)
  return out, top, sum(w.sum(-1, keepdims=True) for w, _ in weighed)


def _products(q, k):
  """`[R, K, M, S]` f32: each query `[R, K, M, Dh]` with each key `[R, K, S, Dh]`."""
  f32 = dict(preferred_element_type=jnp.float32)
  together = lambda q, k: jnp.einsum('rkmd,rksd->rkms', q, k, **f32)
  if q.shape[2] > 4:
    return together(q, k)
  alone = lambda q, k: jnp.stack([jnp.einsum('rksd,rkd->rks', k, q[:, :, m], **f32) for m in range(q.shape[2])], axis=2)
  return jax.lax.platform_dependent(q, k, cpu=alone, default=together)   # on a CPU 1.2 to 1.5 times faster than one product


def shared_state(q, shared, layer, picks):
  """The same for the stretches: all rows of one meet its keys in one product."""
  k, v = shared.tables[layer]
  stretches, n = shared.member.shape
  _, groups, queries, size = q.shape
  grid = jnp.transpose(q[shared.member], (0, 2, 1, 3, 4)).reshape(stretches, groups, n * queries, size)
  base = shared.base[shared.member]
  seen = jnp.arange(k.shape[2], dtype=jnp.int32)[None, None] < jnp.repeat(base, queries, axis=1)[:, :, None]
  back = lambda x: jnp.transpose(x.reshape(stretches, groups, n, queries, -1), (0, 2, 1, 3, 4)).reshape(
      stretches * n, groups, queries, -1)[shared.place]
  out, top, total = map(back, state(grid, [(k, v, seen)]))
  return out, jnp.where(shared.base[:, None, None, None] > 0, top, HIDDEN), total


def normalised(states):
  """One softmax over all tables."""
  top = functools.reduce(jnp.maximum, (t for _, t, _ in states))
  scale = [jnp.exp(t - top) for _, t, _ in states]
  total = sum(n * s for (_, _, n), s in zip(states, scale))
  return sum(o * s for (o, _, _), s in zip(states, scale)) / total
