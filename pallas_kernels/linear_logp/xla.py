"""`linear_logp` in plain XLA: logits exist for one chunk of tokens at a time, and backward makes them again.

Differentiating the matmul itself would upcast both backward matmuls to float32 (a bf16 x bf16 -> f32 product has an f32
cotangent), so the derivative is written out. With z = hidden @ weight / temperature, p = softmax(z) and entropy H:

  d logp / d z_v = [v = id] - p_v          d H / d z_v = -p_v (log p_v + H)

Tokens are padded to whole chunks, never cut to a divisor (8519 tokens would end in chunks of 7), and dealt to the chunks
like cards, so that each chunk holds some of every device's rows when rows are sharded.
"""

from collections.abc import Callable, Mapping
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

BUDGET = 1 << 24   # logits of one chunk; a vocabulary of 512 takes 32k tokens at once, without a loop
LEAST = 1024       # below this many tokens the matmuls no longer pay for reading the head


def chunk_size(tokens: int, vocab: int) -> int:
  """Tokens in a chunk: all of them where their logits fit in `BUDGET`, else chunks of about equal size."""
  most = max(LEAST, BUDGET // vocab)
  chunks = -(-tokens // most)
  return min(tokens, -(-tokens // (128 * chunks)) * 128)


def linear_logp(hidden, weight, ids, *, temperature, extra, chunk=None):
  """As `api.linear_logp`, on `[M]` tokens: hidden `[M, D]`, weight `[D, V]`, ids `[M]`, temperature scalar or `[M]`.

  `chunk`: tokens whose logits exist at the same time, by default `chunk_size`.
  """
  m, vocab = ids.shape[0], weight.shape[1]
  if m == 0:
    empty = jnp.zeros(0, jnp.float32)
    return empty, empty, {name: empty for name in extra}
  chunk = chunk or chunk_size(m, vocab)
  split = functools.partial(_split, chunks=-(-m // chunk), chunk=chunk)
  temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), ids.shape)
  evaluate, captured = _closed(extra, vocab)
  out = _chunked(evaluate, split(hidden, 0), weight, split(ids, 0), split(temperature, 1), captured)
  logp, entropy, values = jax.tree.map(lambda x: x.T.ravel()[:m], out)
  return logp, entropy, values


def _split(x, pad, *, chunks, chunk):
  """`[M, ...]` -> `[chunks, chunk, ...]`, token i in chunk i % chunks."""
  x = jnp.pad(x, [(0, chunks * chunk - x.shape[0])] + [(0, 0)] * (x.ndim - 1), constant_values=pad)
  return x.reshape(chunk, chunks, *x.shape[1:]).swapaxes(0, 1)


def _closed(extra: Mapping[str, Callable], vocab: int):
  """(evaluate(logits `[chunk, V]`, ids, captured) -> name -> `[chunk]`, captured): what `extra` closes over is an input."""
  row, one = jax.ShapeDtypeStruct((vocab,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
  pairs = {name: jax.closure_convert(fn, row, one) for name, fn in extra.items()}

  def evaluate(logits, ids, captured):
    return {name: jax.vmap(lambda z, i, fn=fn, name=name: fn(z, i, *captured[name]))(logits, ids)
            for name, (fn, _) in pairs.items()}
  return evaluate, {name: consts for name, (_, consts) in pairs.items()}


def _loop(body, carry, xs):
  """`lax.scan`, without a loop where there is one chunk."""
  if jax.tree.leaves(xs)[0].shape[0] > 1:
    return jax.lax.scan(body, carry, xs)
  carry, y = body(carry, jax.tree.map(lambda x: x[0], xs))
  return carry, jax.tree.map(lambda x: x[None], y)


class _Kept(NamedTuple):
  """What forward leaves for backward; `[chunks, chunk]` each."""
  lse: jax.Array
  entropy: jax.Array


def _logits(hidden, weight, temperature):
  return jnp.matmul(hidden, weight, preferred_element_type=jnp.float32) / temperature[:, None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(evaluate, hidden, weight, ids, temperature, captured):
  return _forward(evaluate, hidden, weight, ids, temperature, captured)[0]


def _forward(evaluate, hidden, weight, ids, temperature, captured):
  cast = weight.astype(hidden.dtype)

  def body(_, xs):
    x, y, t = xs
    z = _logits(x, cast, t)
    top = jnp.max(z, axis=-1)
    e = jnp.exp(z - top[:, None])
    total = jnp.sum(e, axis=-1)
    lse = top + jnp.log(total)
    entropy = jnp.log(total) - jnp.sum(e * (z - top[:, None]), axis=-1) / total
    logp = jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0] - lse
    return (), ((logp, entropy, evaluate(z, y, captured)), lse)
  out, lse = _loop(body, (), (hidden, ids, temperature))[1]
  return out, (hidden, weight, ids, temperature, captured, _Kept(lse, out[1]))


def _backward(evaluate, kept, cotangents):
  hidden, weight, ids, temperature, captured, stats = kept
  cast = weight.astype(hidden.dtype)

  def body(carry, xs):
    d_weight, d_captured = carry
    x, y, t, (lse, entropy), (g_logp, g_entropy, g_extra) = xs
    z = _logits(x, cast, t)
    logp = z - lse[:, None]
    # a comparison instead of a scatter keeps this one fused pass over the chunk
    hit = y[:, None] == jax.lax.broadcasted_iota(y.dtype, z.shape, 1)
    dz = (jnp.where(hit, g_logp[:, None], 0)
          - jnp.exp(logp) * (g_logp[:, None] + g_entropy[:, None] * (logp + entropy[:, None])))
    if g_extra:
      _, pull = jax.vjp(lambda z, captured: evaluate(z, y, captured), z, captured)
      dz_extra, d_more = pull(g_extra)
      dz, d_captured = dz + dz_extra, jax.tree.map(jnp.add, d_captured, d_more)
    d_temperature = -jnp.sum(dz * z, axis=-1) / t
    dz = (dz / t[:, None]).astype(x.dtype)
    dx = jnp.matmul(dz, cast.T, preferred_element_type=jnp.float32).astype(x.dtype)
    d_weight += jnp.matmul(x.T, dz, preferred_element_type=jnp.float32)
    return (d_weight, d_captured), (dx, d_temperature)

  zeros = lambda tree: jax.tree.map(jnp.zeros_like, tree)
  start = jnp.zeros(weight.shape, jnp.float32), zeros(captured)
  (d_weight, d_captured), (d_hidden, d_temperature) = _loop(
      body, start, (hidden, ids, temperature, stats, cotangents))
  return d_hidden, d_weight.astype(weight.dtype), None, d_temperature, d_captured


_chunked.defvjp(_forward, _backward)
