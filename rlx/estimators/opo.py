"""OPO: the return of an episode against the mean of its prompt, weighted by length."""

import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch


def opo(batch: Batch, *, channel: str = 'task') -> Array:
  """Advantages over the optimal baseline of on-policy training (arXiv:2505.23585).

    A_i = R_i - b_g,   b_g = sum_i len_i R_i / sum_i len_i;   a shared step has the mean of A over its episodes

  The baseline has the least variance where the squared norm of an episode's gradient grows with its length. The only episode
  of a prompt is its own baseline and gets 0 (verl leaves it its return).

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2; len is the number of trained
      tokens of the path: those of a shared step count in every episode through it.
    channel: reward channel.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. Equal returns give exactly 0.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_opo_outcome_advantage`.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  length = tree.fold_down(masked.node_sum(jnp.ones_like(batch.tokens.logp), batch), n.parent)
  mean = lambda x: groups.group_stats(x, n.group, on).mean
  away = ret - mean(ret)                # equal returns then have exactly their own value as baseline
  return tree.leaf_mean(away - mean(length * away) / jnp.maximum(mean(length), 1e-6), on, n.parent)
