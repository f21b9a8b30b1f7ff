"""A policy that compiles in no time, for tests of what stands around models."""

import jax
import jax.numpy as jnp

from rlx.types import Policy


def bag(*, vocab: int = 64, width: int = 6) -> Policy:
  """Each token's state is its embedding and the mean of all that it sees, mixed; one value head, 'value'."""
  def init(key):
    k = jax.random.split(key, 4)
    return dict(embedding=jax.random.normal(k[0], (vocab, width)), mix=jax.random.normal(k[1], (width, width)),
                head=jax.random.normal(k[2], (width, vocab)),
                heads=dict(value=dict(kernel=jax.random.normal(k[3], (width, 1)), bias=jnp.full(1, .5))))

  def apply(params, ids, position, last, cache=None):
    del position
    x, i = params['embedding'][ids], jnp.arange(ids.shape[1])
    seen = ((i[None, None, :] <= i[None, :, None]) & (i[None, :, None] < last[:, None, :])).astype(jnp.float32)
    mean = jnp.einsum('rij,rjd->rid', seen, x) / jnp.maximum(jnp.sum(seen, -1, keepdims=True), 1)
    return jnp.tanh(mean @ params['mix']) + x, cache
  return Policy(init, apply, lambda params: params['head'], None)
