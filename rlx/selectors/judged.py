"""Keep what was judged."""

from rlx import masked, tree
from rlx.types import Array, Batch


def judged(batch: Batch, keep: Array, *, channel: str = 'task') -> Array:
  """Keeps tokens of steps that an ended episode runs through whose verdicts on a channel are all there.

  An episode without a verdict has no credit anyway; with this its tokens leave the denominator of the average too: voters beyond
  those that TTRL trains on (arXiv:2504.16084), questions a judge did not answer.

  Args:
    batch: reads `reward[channel]`.
    keep: `[R, T]` bool.
    channel: reward channel.

  Returns:
    `[R, T]` bool.

  Proof: twin.
  """
  n = batch.nodes
  return keep & masked.to_tokens(tree.through(tree.returns(n, channel)[1], n.parent), batch.tokens)
