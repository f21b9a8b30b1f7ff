"""What the chunked heads share: products with a head in either layout, statistics of logits, and their derivatives.

With z = hidden @ weight / temperature, p = softmax(z), lse = log sum exp z and entropy H:

  d logp / d z_v = [v = id] - p_v          d H / d z_v = -p_v (log p_v + H)

Products take operands of the hidden states' dtype and sum in float32. They are written out because differentiating a
bf16 x bf16 -> f32 product multiplies float32 by float32, the cotangent being float32. A head is `[D, V]`, or, where `tied`, the
`[V, D]` table whose transpose it is: no product then needs a transposed copy.
"""

from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp

# a TPU's default exp and log are off by 1e-4, enough to tell a ratio of 1 from a chunk's boundary
exact = jax.lax.AccuracyMode.HIGHEST
exp, log = functools.partial(jax.lax.exp, accuracy=exact), functools.partial(jax.lax.log, accuracy=exact)
product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def logits(hidden, weight, temperature, tied: bool):
  """`[t, V]` f32."""
  return product('td,vd->tv' if tied else 'td,dv->tv', hidden, weight) / temperature[:, None]


def to_hidden(dz, weight, tied: bool):
  """`[t, D]` f32, from dz `[t, V]` in the weight's dtype."""
  return product('tv,vd->td' if tied else 'tv,dv->td', dz, weight)


def to_weight(hidden, dz, tied: bool):
  """f32 of the weight's shape."""
  return product('tv,td->vd', dz, hidden) if tied else product('td,tv->dv', hidden, dz)


def statistics(z):
  """(lse, entropy), `[t]` each."""
  top = jnp.max(z, axis=-1)
  down = z - top[:, None]
  e = exp(down)
  total = jnp.sum(e, axis=-1)
  return top + log(total), log(total) - jnp.sum(e * down, axis=-1) / total


def slope(z, ids, lse, entropy, g_logp, g_entropy):
  """`[t, V]` f32: what z's cotangent is, given those of log-probability and entropy; ids outside of the columns hit none."""
  logp = z - lse[:, None]
  # a comparison instead of a scatter keeps this one fused pass over the chunk
  hit = ids[:, None] == jax.lax.broadcasted_iota(ids.dtype, z.shape, 1)
  return (jnp.where(hit, g_logp[:, None], 0)
          - jnp.exp(logp) * (g_logp[:, None] + g_entropy[:, None] * (logp + entropy[:, None])))


def rows(extra: Mapping[str, Callable], z, ids):
  """name -> `[t]`: each function on every row of logits."""
  return {name: jax.vmap(fn)(z, ids) for name, fn in extra.items()}


# ---- chunks of tokens ----------------------------------------------------------------------------------------------

BUDGET = 1 << 21   # logits of a chunk; on a CPU they then stay in its cache


def least(width: int) -> int:
  """Below this many tokens reading the head and adding to its gradient costs more than the products with it."""
  return min(512, max(256, width // 256 * 128))


def chunk_size(tokens: int, width: int, vocab: int) -> int:
  """Tokens in a chunk: as many as fit in `BUDGET` and at least `least`, in chunks of about equal size."""
  chunks = -(-tokens // max(least(width), BUDGET // vocab))
  return min(tokens, -(-tokens // (128 * chunks)) * 128)


def deal(x, chunk: int):
  """`[M, ...]` -> `[chunk, chunks, ...]`, token i in chunk i % chunks.

  Tokens are padded to whole chunks with the last one, never cut to a divisor (8519 tokens would end in chunks of 7), and dealt
  like cards, so that each chunk holds some of every device's rows when rows are sharded.
  """
  chunks = -(-x.shape[0] // chunk)
  x = jnp.pad(x, [(0, chunks * chunk - x.shape[0])] + [(0, 0)] * (x.ndim - 1), mode='edge')
  return x.reshape(chunk, chunks, *x.shape[1:])


def real(tokens: int, chunk: int):
  """`[chunk, chunks]` bool, False on what `deal` added."""
  chunks = -(-tokens // chunk)
  return (jnp.arange(chunk * chunks) < tokens).reshape(chunk, chunks)


def undeal(x, tokens: int):
  """`[chunk, chunks, ...]` -> `[tokens, ...]`."""
  return x.reshape(-1, *x.shape[2:])[:tokens]


def loop(body: Callable, carry, dealt):
  """Runs `body(carry, xs) -> (carry, ys)` over chunks, and deals the ys; without a loop where there is one chunk.

  A chunk is read and written where it lies, so that nothing is transposed.
  """
  chunks = jax.tree.leaves(dealt)[0].shape[1]
  at = lambda i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 1, keepdims=False), dealt)
  if chunks == 1:
    carry, ys = body(carry, jax.tree.map(lambda x: x[:, 0], dealt))
    return carry, jax.tree.map(lambda y: y[:, None], ys)
  shapes = jax.eval_shape(lambda carry, i: body(carry, at(i))[1], carry, 0)
  start = jax.tree.map(lambda s: jnp.zeros((s.shape[0], chunks, *s.shape[1:]), s.dtype), shapes)

  def step(state, i):
    carry, out = state
    carry, ys = body(carry, at(i))
    return (carry, jax.tree.map(lambda o, y: jax.lax.dynamic_update_index_in_dim(o, y, i, 1), out, ys)), None
  return jax.lax.scan(step, (carry, start), jnp.arange(chunks))[0]
