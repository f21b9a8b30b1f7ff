"""GRPO: the return of an episode against the other episodes of its prompt."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def grpo(batch: Batch, *, channel: str = 'task', std: bool = True, ddof: int = 1, eps: float = 1e-6,
         clip: float | None = None, singleton: str = 'zero', vectorised: bool = False) -> Array:
  """Group-relative advantages (arXiv:2402.03300, sec. 4.1.2).

    A_i = (R_i - mean_g R) / (std_g R + eps);   a shared step has the mean of A over the episodes through it

  Without `std` it is the advantage of Dr. GRPO (arXiv:2503.20783), whose loss takes the average `constant`.

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    std: divide by the standard deviation of the group.
    ddof: 1 as released (torch's std; verl, TRL), 0 for numpy's.
    eps: added to the deviation: 1e-6 in verl, 1e-4 in TRL.
    clip: advantages are clipped to [-clip, clip] before the mean over episodes (TRUST-SQL: 10); None: not.
    singleton: what the only episode of a prompt gets: 'zero', or 'raw' its return (verl).
    vectorised: the variance is at least 1e-6 before eps is added to its root, as in volcengine's vectorised copy.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. Equal returns give exactly 0.

  Source: volcengine/verl@b178a3cd and verl-project/verl@1dda039 `core_algos.py::compute_grpo_outcome_advantage`;
  vectorised: volcengine's `::compute_grpo_vectorized_outcome_advantage`, `verl/utils/groupwise.py::group_mean_std`.

  Proof: twin.
  """
  if singleton not in ('zero', 'raw'):
    raise ValueError(f"singleton is 'zero' or 'raw', not {singleton!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  spread = jnp.maximum(g.std(ddof), 1e-3) if vectorised else g.std(ddof)
  adv = (ret - g.mean) / (spread + eps if std else 1.)
  if singleton == 'raw':
    adv = jnp.where(g.count == 1, ret, adv)
  if clip is not None:
    adv = jnp.clip(adv, -clip, clip)
  return tree.leaf_mean(adv, on, n.parent)
