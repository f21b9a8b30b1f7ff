"""Leave out prompts whose episodes all scored the same."""

from rlx import groups, tree
from rlx.types import Array, Batch


def informative(batch: Batch, keep: Array, *, channel: str = 'task', singleton: str = 'drop') -> Array:
  """Drops tokens of prompts whose episode returns have no variance (the filter of DAPO, arXiv:2503.14476, sec. 3.2).

  Their advantage is 0 anyway, but what is dropped leaves the denominator of the average too: the others count more, and
  terms without an advantage (KL, entropy) are no longer trained there. DAPO also samples more prompts in their place;
  this does not.

  Args:
    batch: reads `reward[channel]`.
    keep: `[R, T]` bool.
    channel: reward channel.
    singleton: prompts with a single episode: 'drop', or 'keep' (verl).

  Returns:
    `[R, T]` bool.

  Source: volcengine/verl@b178a3cd `recipe/dapo/dapo_ray_trainer.py`.

  Proof: twin.
  """
  if singleton not in ('drop', 'keep'):
    raise ValueError(f"singleton is 'drop' or 'keep', not {singleton!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  good = (g.square > 0) | (g.count == 1) if singleton == 'keep' else g.square > 0
  return keep & tree.above(good, batch.tokens.node, False)
