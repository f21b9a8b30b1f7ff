"""No credit at all: what a demonstration's loss multiplies its terms with."""

import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch


def ones(batch: Batch) -> Array:
  """`[N]` 1 on every step an ended episode runs through, 0 elsewhere.

  For losses that read no advantage (`sft`) or are to weigh all steps alike.

  Proof: twin.
  """
  n = batch.nodes
  return jnp.where(tree.through(tree.ended(n), n.parent), 1., 0.)
