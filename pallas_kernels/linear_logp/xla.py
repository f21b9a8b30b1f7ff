"""`linear_logp` in plain XLA: logits exist for one chunk at a time, and backward makes them again.

A trip of the loop reads the whole of one operand, so the loop runs over the longer one: chunks of columns with an online
softmax (arXiv:1805.02867) where the vocabulary is longer, chunks of tokens where there are more of those. Of columns each part of the
head's gradient is written once, and nothing as large as the head is added up. `extra` wants whole rows, so chunks of tokens.
"""

from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import pieces

LOW = -1e30   # the maximum of nothing; finite, so that 0 * LOW is 0


def linear_logp(hidden, weight, ids, *, temperature, extra, tied=False, chunk=None, columns=None):
  """As `api.linear_logp`, on `[M]` tokens: hidden `[M, D]`, weight `[D, V]`, ids `[M]`, temperature scalar or `[M]`.

  `chunk` tokens, or `columns` of the vocabulary: whose logits exist at the same time; by default chosen by shape.
  """
  (tokens, width), vocab = hidden.shape, weight.shape[1]
  if tokens == 0:
    empty = jnp.zeros(0, jnp.float32)
    return empty, empty, {name: empty for name in extra}
  weight = weight.T if tied else weight
  temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), ids.shape)
  if columns is None and chunk is None and not extra and vocab > tokens:
    columns = column_count(tokens, vocab)
  if columns is not None and not extra:
    return *_by_columns(tied, min(columns, vocab), hidden, weight, ids, temperature), {}
  chunk = chunk or pieces.chunk_size(tokens, width, vocab)
  evaluate, captured = _closed(extra, vocab)
  deal = functools.partial(pieces.deal, chunk=chunk)
  out = _by_tokens(evaluate, tied, deal(hidden), weight, deal(ids), deal(temperature), captured)
  return jax.tree.map(lambda x: pieces.undeal(x, tokens), out)


# ---- chunks of columns ---------------------------------------------------------------------------------------------

def column_count(tokens: int, vocab: int) -> int:
  """Columns of a chunk: as many as fit in `pieces.BUDGET` and at least 512, in chunks of about equal size."""
  chunks = -(-vocab // max(512, pieces.BUDGET // tokens))
  return min(vocab, -(-vocab // (128 * chunks)) * 128)


def _part(weight, i, columns, tied):
  """(columns of chunk i, index of the first, `[columns]` which are new): the last chunk reaches back over the one before it."""
  vocab = weight.shape[not tied]
  start = jnp.minimum(i * columns, vocab - columns)
  part = jax.lax.dynamic_slice_in_dim(weight, start, columns, 0 if tied else 1)
  return part, start, start + jnp.arange(columns, dtype=jnp.int32) >= i * columns


def _over_columns(body, carry, weight, columns, tied):
  """Runs `body(carry, part, start, new)` over chunks of columns; `new` is None where no chunk overlaps another."""
  vocab = weight.shape[not tied]
  if columns == vocab:
    return body(carry, weight, jnp.int32(0), None)

  def step(carry, i):
    part, start, new = _part(weight, i, columns, tied)
    return body(carry, part, start, new if vocab % columns else None), None
  return jax.lax.scan(step, carry, jnp.arange(-(-vocab // columns), dtype=jnp.int32))[0]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_columns(tied, columns, hidden, weight, ids, temperature):
  return _columns_forward(tied, columns, hidden, weight, ids, temperature)[0]


def _columns_forward(tied, columns, hidden, weight, ids, temperature):
  """Carries, of the logits so far, the maximum m, l = sum e^(z - m), a = sum e^(z - m) (z - m), and the id's own."""
  def body(carry, part, start, new):
    m, l, a, chosen = carry
    z = pieces.logits(hidden, part.astype(hidden.dtype), temperature, tied)
    if new is not None:
      z = jnp.where(new[None], z, LOW)
    top = jnp.maximum(m, jnp.max(z, axis=-1))
    down, fall = z - top[:, None], pieces.exp(m - top)
    e = pieces.exp(down)
    a = fall * (a + l * (m - top)) + jnp.sum(e * down, axis=-1)
    l = fall * l + jnp.sum(e, axis=-1)
    at = ids - start
    own = jnp.take_along_axis(z, jnp.clip(at, 0, columns - 1)[:, None], axis=-1)[:, 0]
    return top, l, a, jnp.where((at >= 0) & (at < columns) & (own > LOW), own, chosen)
  nothing = jnp.zeros(ids.shape, jnp.float32)
  m, l, a, chosen = _over_columns(body, (nothing + LOW, nothing, nothing, nothing + LOW), weight, columns, tied)
  lse, entropy = m + pieces.log(l), pieces.log(l) - a / l
  return (chosen - lse, entropy), (hidden, weight, ids, temperature, lse, entropy)


def _columns_backward(tied, columns, kept, cotangents):
  hidden, weight, ids, temperature, lse, entropy = kept
  axis = 0 if tied else 1

  def body(carry, part, start, new):
    d_hidden, d_weight, d_temperature = carry
    part = part.astype(hidden.dtype)
    z = pieces.logits(hidden, part, temperature, tied)
    dz = pieces.slope(z, ids - start, lse, entropy, *cotangents)
    if new is not None:   # what the chunk before has counted: its part of the head's gradient is written again, the same
      part = jnp.where(jnp.expand_dims(new, 1 - axis), part, jnp.zeros((), part.dtype))
    d_temperature -= jnp.sum(dz * z if new is None else jnp.where(new[None], dz * z, 0.), axis=-1) / temperature
    dz = (dz / temperature[:, None]).astype(hidden.dtype)
    d_hidden += pieces.to_hidden(dz, part, tied)
    d_weight = jax.lax.dynamic_update_slice_in_dim(d_weight, pieces.to_weight(hidden, dz, tied), start, axis)
    return d_hidden, d_weight, d_temperature
  zeros = lambda x: jnp.zeros(x.shape, jnp.float32)
  d_hidden, d_weight, d_temperature = _over_columns(body, (zeros(hidden), zeros(weight), zeros(ids)), weight, columns, tied)
  return d_hidden.astype(hidden.dtype), d_weight.astype(weight.dtype), None, d_temperature


_by_columns.defvjp(_columns_forward, _columns_backward)


# ---- chunks of tokens ----------------------------------------------------------------------------------------------

def _closed(extra: Mapping[str, Callable], vocab: int):
  """(evaluate(logits `[t, V]`, ids, captured) -> name -> `[t]`, captured): what `extra` closes over is an input."""
  row, one = jax.ShapeDtypeStruct((vocab,), jnp.float32), jax.ShapeDtypeStruct((), jnp.int32)
  pairs = {name: jax.closure_convert(fn, row, one) for name, fn in extra.items()}

  def evaluate(z, ids, captured):
    return pieces.rows({name: lambda z, i, fn=fn, name=name: fn(z, i, *captured[name]) for name, (fn, _) in pairs.items()}, z, ids)
  return evaluate, {name: consts for name, (_, consts) in pairs.items()}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_tokens(evaluate, tied, hidden, weight, ids, temperature, captured):
  return _tokens_forward(evaluate, tied, hidden, weight, ids, temperature, captured)[0]


def _tokens_forward(evaluate, tied, hidden, weight, ids, temperature, captured):
  cast = weight.astype(hidden.dtype)

  def body(_, xs):
    x, y, t = xs
    z = pieces.logits(x, cast, t, tied)
    lse, entropy = pieces.statistics(z)
    logp = jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0] - lse
    return (), ((logp, entropy, evaluate(z, y, captured)), lse)
  out, lse = pieces.loop(body, (), (hidden, ids, temperature))[1]
  return out, (hidden, weight, ids, temperature, captured, lse, out[1])


def _tokens_backward(evaluate, tied, kept, cotangents):
  hidden, weight, ids, temperature, captured, *stats = kept
  cast = weight.astype(hidden.dtype)

  def body(carry, xs):
    d_weight, d_captured = carry
    x, y, t, (lse, entropy), (g_logp, g_entropy, g_extra) = xs
    z = pieces.logits(x, cast, t, tied)
    dz = pieces.slope(z, y, lse, entropy, g_logp, g_entropy)
    if g_extra:
      _, pull = jax.vjp(lambda z, captured: evaluate(z, y, captured), z, captured)
      dz_extra, d_more = pull(g_extra)
      dz, d_captured = dz + dz_extra, jax.tree.map(jnp.add, d_captured, d_more)
    d_temperature = -jnp.sum(dz * z, axis=-1) / t
    dz = (dz / t[:, None]).astype(x.dtype)
    dx = pieces.to_hidden(dz, cast, tied).astype(x.dtype)
    return (d_weight + pieces.to_weight(x, dz, tied), d_captured), (dx, d_temperature)

  start = jnp.zeros(weight.shape, jnp.float32), jax.tree.map(jnp.zeros_like, captured)
  (d_weight, d_captured), (d_hidden, d_temperature) = pieces.loop(
      body, start, (hidden, ids, temperature, tuple(stats), cotangents))
  return d_hidden, d_weight.astype(weight.dtype), None, d_temperature, d_captured


_by_tokens.defvjp(_tokens_forward, _tokens_backward)
