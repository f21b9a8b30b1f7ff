"""Lite-PPO: the mean of the prompt, the deviation of the batch."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def lite_ppo(batch: Batch, *, channel: str = 'task', ddof: int = 1, eps: float = 1e-6) -> Array:
  """Advantages of Lite-PPO (arXiv:2508.08221), to be averaged over tokens.

    A_i = (R_i - mean_g R) / (std_batch R + eps);   a shared step has the mean of A over the episodes through it

  The deviation is that of all returns of the batch, not of the centred ones. Which ddof the paper means is not said (ours: verl's).

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    ddof: 1, or 0 for numpy's.
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 where no ended episode runs through, and for the only episode of a prompt.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  spread = groups.group_stats(ret, jnp.zeros_like(n.group), on).std(ddof)
  return tree.leaf_mean((ret - groups.group_stats(ret, n.group, on).mean) / (spread + eps), on, n.parent)
