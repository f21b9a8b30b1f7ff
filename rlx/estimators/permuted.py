"""A control: the same advantages, given to the wrong steps."""

import jax
import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch

needs = ('chance',)


def permuted(batch: Batch, adv: Array, *, key: Array) -> Array:
  """Advantages permuted over the steps of the batch that get credit (modulator).

    A'_s = A_p(s), p a random permutation of the credited steps

  What still rises with it does not rise because of credit.

  Args:
    batch: any.
    adv: `[N]`.
    key: the step's, supplied by the loop.

  Returns:
    `[N]` f32.

  Proof: twin.
  """
  live = tree.through(tree.ended(batch.nodes), batch.nodes.parent)
  n = adv.shape[0]
  first = jnp.argsort(~live, stable=True)                                             # credited steps in front
  drawn = jnp.argsort(jnp.where(live, jax.random.uniform(key, (n,)), 2.), stable=True)   # and in random order
  return jnp.zeros_like(adv).at[first].set(jnp.where(live[drawn], adv[drawn], 0.))
