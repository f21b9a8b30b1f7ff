"""The step-level baseline without anchors: discounted returns of steps, normalised over all of them."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.estimators.gigpo import step_returns
from rlx.types import Array, Batch


def step_discount(batch: Batch, *, channel: str = 'task', gamma: float = 0.95, pool: str = 'prompt', std: bool = True,
                  ddof: int = 1, eps: float = 1e-6) -> Array:
  """Discounted returns of steps, normalised over a pool: what GiGPO's step part (arXiv:2505.10978) is without its anchors.

    A_s = (G_s - mean_p G) / (std_p G + eps),   G = r + gamma G'

  The returns are verl-agent's; the pools are ours.

  Args:
    batch: reads `reward[channel]`.
    channel: reward channel.
    gamma: discount per step.
    pool: 'prompt': all steps of the prompt, 'batch': all steps.
    std: divide by the deviation of the pool.
    ddof: 1 for torch's std, 0 for numpy's.
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 for a step alone in its pool and where no ended episode runs through. G of a shared step is r + gamma times
    the mean over next steps.

  Source: vanzll/verl-agent@d0b97244 `gigpo/core_gigpo.py::compute_step_discounted_returns`.

  Proof: twin; guess: over which steps the returns are normalised.
  """
  if pool not in ('prompt', 'batch'):
    raise ValueError(f"pool is 'prompt' or 'batch', not {pool!r}.")
  n = batch.nodes
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  ret = step_returns(batch, live, channel=channel, gamma=gamma)
  return groups.group_norm(ret, n.group if pool == 'prompt' else jnp.zeros_like(n.group), live, std=std, ddof=ddof, eps=eps)
