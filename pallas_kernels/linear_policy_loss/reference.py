"""What `linear_policy_loss` means, by differentiating through all logits."""

import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import reference


def linear_policy_loss(hidden, weight, ids, term, args, *, temperature, extra, tied=False):
  """As `api.linear_policy_loss`, on `[M]` tokens: hidden `[M, D]`, weight `[D, V]`, ids and temperature `[M]`."""
  held = jax.lax.stop_gradient
  columns = reference.linear_logp(hidden, weight, ids, temperature=held(temperature), extra=extra, tied=tied)
  return jnp.sum(term(*columns, held(args))), *held(columns)
