"""Leave out what no ended episode runs through; the loop runs it first, before the selectors of a track."""

from rlx import tree
from rlx.types import Array, Batch


def credited(batch: Batch, keep: Array) -> Array:
  """Drops tokens of abandoned branches and of failed episodes: they leave the loss and its denominator.

  Args:
    batch: reads `parent` and `end`.
    keep: `[R, T]` bool.

  Returns:
    `[R, T]` bool.

  Proof: twin.
  """
  n = batch.nodes
  return keep & tree.above(tree.through(tree.ended(n), n.parent), batch.tokens.node, False)
