"""`linear_policy_loss` in plain XLA: one loop over chunks of tokens that leaves the loss and its gradient.

The loop runs on values held constant, so nothing of it is kept or traced for a backward pass; the gradient it made is then
attached to the loss. What pads the last chunk repeats a token, and its term is left out.
"""

import functools

import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import pieces


def linear_policy_loss(hidden, weight, ids, term, args, *, temperature, extra, tied=False, chunk=None):
  """As `api.linear_policy_loss`, on `[M]` tokens: hidden `[M, D]`, weight `[D, V]`, ids and temperature `[M]`.

  `chunk`: tokens whose logits exist at the same time, by default `pieces.chunk_size`.
  """
  (tokens, width), vocab = hidden.shape, weight.shape[1]
  if tokens == 0:
    empty = jnp.zeros(0, jnp.float32)
    return jnp.float32(0), empty, empty, {name: empty for name in extra}
  weight = weight.T if tied else weight
  held = jax.lax.stop_gradient(dict(hidden=hidden, weight=weight, args=args, temperature=temperature))
  chunk = chunk or pieces.chunk_size(tokens, width, vocab)
  deal = functools.partial(pieces.deal, chunk=chunk)
  cast = held['weight'].astype(hidden.dtype)

  def body(carry, xs):
    loss, d_weight = carry
    x, y, t, real, args = xs
    z = pieces.logits(x, cast, t, tied)
    lse, entropy = pieces.statistics(z)
    logp = jnp.take_along_axis(z, y[:, None], axis=-1)[:, 0] - lse
    if extra:
      values, pull = jax.vjp(lambda z: pieces.rows(extra, z, y), z)
    else:
      values, pull = {}, None
    here, (g_logp, g_entropy, g_values) = jax.value_and_grad(
        lambda *columns: jnp.sum(jnp.where(real, term(*columns, args), 0.)), argnums=(0, 1, 2))(logp, entropy, values)
    dz = pieces.slope(z, y, lse, entropy, g_logp, g_entropy)
    if pull is not None:
      dz += pull(g_values)[0]
    dz = (dz / t[:, None]).astype(x.dtype)
    d_hidden = pieces.to_hidden(dz, cast, tied).astype(x.dtype)
    return (loss + here, d_weight + pieces.to_weight(x, dz, tied)), (d_hidden, (logp, entropy, values))

  start = jnp.float32(0), jnp.zeros(weight.shape, jnp.float32)
  (loss, d_weight), out = pieces.loop(body, start, (
      deal(held['hidden']), deal(ids), deal(held['temperature']), pieces.real(tokens, chunk),
      jax.tree.map(deal, held['args'])))
  d_hidden, columns = jax.tree.map(lambda x: pieces.undeal(x, tokens), out)
  return _attached(hidden, weight, loss, d_hidden, d_weight), *columns


@jax.custom_vjp
def _attached(hidden, weight, loss, d_hidden, d_weight):
  """The loss, with this gradient to hidden and weight."""
  del hidden, weight, d_hidden, d_weight
  return loss


def _attach(hidden, weight, loss, d_hidden, d_weight):
  del hidden
  return loss, (d_hidden, d_weight, jnp.zeros((), weight.dtype))


def _scale(kept, g):
  d_hidden, d_weight, like = kept
  return (g * d_hidden.astype(jnp.float32)).astype(d_hidden.dtype), (g * d_weight).astype(like.dtype), None, None, None


_attached.defvjp(_attach, _scale)
