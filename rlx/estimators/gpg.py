"""GPG: centred returns, scaled up for the episodes that say nothing."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def gpg(batch: Batch, *, channel: str = 'task', count: str = 'scores', singleton: str = 'zero') -> Array:
  """Group policy gradient (arXiv:2504.02546).

    A_i = alpha (R_i - mean_g R),   alpha = B / (number of episodes that count);   a shared step has the mean over its episodes

  B is the number of episodes in the batch. The loss is -A log pi, without a ratio.

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    count: which episodes count: 'scores' (released): R_i is not 0; 'advantages' (paper, alpha = B / (B - M)): A_i is not 0.
    singleton: what the only episode of a prompt gets before alpha: 'zero', or 'raw' its return (released).

  Returns:
    `[N]` f32; 0 where no ended episode runs through. Where no episode counts, alpha is B.

  Raises:
    ValueError: `count` or `singleton` is none of these.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_gpg_outcome_advantage`.

  Proof: twin.
  """
  if count not in ('scores', 'advantages'):
    raise ValueError(f"count is 'scores' or 'advantages', not {count!r}.")
  if singleton not in ('zero', 'raw'):
    raise ValueError(f"singleton is 'zero' or 'raw', not {singleton!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  adv = ret - g.mean
  if singleton == 'raw':
    adv = jnp.where(g.count == 1, ret, adv)
  counts = on & ((ret if count == 'scores' else adv) != 0)
  total = lambda where: jnp.sum(where, dtype=jnp.float32)
  return tree.leaf_mean(adv, on, n.parent) * total(on) / jnp.maximum(total(counts), 1)
