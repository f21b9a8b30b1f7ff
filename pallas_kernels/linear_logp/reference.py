"""What `linear_logp` means, with every logit in memory."""

import jax
import jax.numpy as jnp


def linear_logp(hidden, weight, ids, *, temperature, extra, tied=False):
  """As `api.linear_logp`, on `[M]` tokens: hidden `[M, D]`, weight `[D, V]`, ids `[M]`, temperature scalar or `[M]`."""
  del tied   # XLA multiplies by a transpose as it lies
  weight = weight.astype(hidden.dtype)
  logits = jnp.matmul(hidden, weight, preferred_element_type=jnp.float32)
  logits = logits / jnp.broadcast_to(temperature, ids.shape)[:, None]
  logp = jax.nn.log_softmax(logits, axis=-1)
  entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1)
  values = {name: jax.vmap(fn)(logits, ids) for name, fn in extra.items()}
  return jnp.take_along_axis(logp, ids[:, None], axis=-1)[:, 0], entropy, values
