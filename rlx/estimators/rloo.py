"""RLOO: the return of an episode against the mean of the others."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def rloo(batch: Batch, *, channel: str = 'task', singleton: str = 'zero') -> Array:
  """Leave-one-out advantages (arXiv:2402.14740).

    A_i = R_i - mean_{j != i} R_j = (R_i - mean_g R) n / (n - 1);   a shared step has the mean of A over its episodes

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    singleton: what the only episode of a prompt gets: 'zero' (verl, vectorised), or 'raw' its return (verl, the loop).

  Returns:
    `[N]` f32; 0 where no ended episode runs through.

  Source: volcengine/verl@b178a3cd `core_algos.py::compute_rloo_outcome_advantage`,
  `::compute_rloo_vectorized_outcome_advantage`.

  Proof: twin.
  """
  if singleton not in ('zero', 'raw'):
    raise ValueError(f"singleton is 'zero' or 'raw', not {singleton!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  adv = (ret - g.mean) * g.count / jnp.maximum(g.count - 1, 1)
  if singleton == 'raw':
    adv = jnp.where(g.count == 1, ret, adv)
  return tree.leaf_mean(adv, on, n.parent)
