"""LOOP: leave-one-out advantages for PPO without a critic."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def loop(batch: Batch, *, channel: str = 'task', baseline: str = 'leave_one_out', std: bool = False, ddof: int = 0,
         floor: float = 1e-7, bonus: float = 0.) -> Array:
  """Advantages of LOOP (arXiv:2502.01600).

    A_i = (R_i - b_i) / max(std_g R, floor) + bonus,   b_i = mean_{j != i} R_j;   a shared step has the mean over its episodes

  Its loss is PPO's with the ratio held in [1 / (1 + e), 1 + e]: `ppo_clip` with low = 1 - 1 / (1 + e) and high = e; its
  filter of rollouts is the selector `above`.

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    baseline: 'leave_one_out', or 'mean' of all episodes of the prompt.
    std: divide by the deviation of the group; the paper does not.
    ddof: 0 as released (numpy's std), 1 for torch's.
    floor: least deviation.
    bonus: added to every advantage (released: `rloo_kl_lambda`, added behind the filter).

  Returns:
    `[N]` f32; 0 where no ended episode runs through, and for the only episode of a prompt (the release refuses it).

  Raises:
    ValueError: no such baseline.

  Source: apple/ml-loop@6ade7b96 `phi_agents/rl/train.py::RLOOTrainer._compute_adv_estimates`.

  Proof: twin.
  """
  if baseline not in ('leave_one_out', 'mean'):
    raise ValueError(f"baseline is 'leave_one_out' or 'mean', not {baseline!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  adv = ret - g.mean
  if baseline == 'leave_one_out':
    adv = adv * g.count / jnp.maximum(g.count - 1, 1)
  if std:
    adv = adv / jnp.maximum(g.std(ddof), floor)
  return tree.leaf_mean(jnp.where(g.count > 1, adv + bonus, 0.), on, n.parent)
