"""Leave out tokens whose advantage is next to nothing."""

import jax.numpy as jnp

from rlx.types import Array, Batch


def above(batch: Batch, keep: Array, *, adv: Array, least: float = 0.01) -> Array:
  """Keeps tokens with |A| >= least: the filter of rollouts of LOOP (arXiv:2502.01600).

  There an episode has one advantage, so it stays or goes whole. The release rounds the number of episodes up to a multiple of its
  workers, with the next ones below `least`; nothing is rounded here.

  Args:
    batch: any.
    keep: `[R, T]` bool.
    adv: `[R, T]` the track's advantages, supplied by the loop.
    least: smallest |A| that stays.

  Returns:
    `[R, T]` bool.

  Source: apple/ml-loop@6ade7b96 `phi_agents/rl/train.py::RLOOTrainer._filter_rollouts`.

  Proof: twin.
  """
  del batch
  return keep & (jnp.abs(adv) >= least)
