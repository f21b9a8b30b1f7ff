"""Keep what a finished episode runs through."""

import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch


def finished(batch: Batch, keep: Array) -> Array:
  """Drops tokens that no episode with end 1 runs through: of a critic that learns from finished answers alone (arXiv:2506.15050).

  Episodes that a limit cut off (end 2) leave the loss and its denominator; their advantages, in another track, are not touched.

  Args:
    batch: reads `parent` and `end`.
    keep: `[R, T]` bool.

  Returns:
    `[R, T]` bool.

  Proof: twin.
  """
  n = batch.nodes
  return keep & tree.above(tree.through(n.valid & (n.end == jnp.asarray(1, n.end.dtype)), n.parent), batch.tokens.node, False)
