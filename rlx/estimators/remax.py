"""ReMax: the return of an episode against that of the greedy one."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def remax(batch: Batch, *, channel: str = 'task', drawn: str = 'drawn') -> Array:
  """Advantages over a greedy rollout of the same prompt (arXiv:2310.10505).

    A_i = R_i - R_greedy;   a shared step has the mean of A over the sampled episodes through it

  The greedy episode is a baseline only and gets 0 (the selector `where` takes its tokens out of the loss). Of several greedy
  ones the mean is taken; a prompt without one gets 0 (ours: the paper always has one).

  Args:
    batch: reads `reward[channel]` and `label[drawn]`; R is the sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    drawn: label that is 0 on greedy steps (the label function `drawn` behind the explorer `flat_and_greedy`). An episode is
      greedy if its last step is.

  Returns:
    `[N]` f32; 0 where no sampled episode that ended runs through.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_remax_outcome_advantage`.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  greedy = on & (n.label[drawn] == 0)
  base = groups.group_stats(ret, n.group, greedy)
  return tree.leaf_mean(jnp.where(base.count > 0, ret - base.mean, 0.), on & ~greedy, n.parent)
