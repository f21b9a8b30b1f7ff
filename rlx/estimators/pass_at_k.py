"""Pass@k: only the best episode of a prompt is paid, by its lead."""

import jax
import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def pass_at_k(batch: Batch, *, channel: str = 'task', std: bool = True, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Advantages for the best of k rollouts (arXiv:2503.19595).

    A_best = (r1 - r2) / (std_g R + eps),   r1 >= r2 the two largest returns of the prompt;   0 for all others

  Where the first place is shared r1 = r2, so nobody gets anything; nor does the only episode of a prompt (verl refuses it).

  Args:
    batch: reads `reward[channel]`; the return is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    std: divide by the standard deviation of the group.
    ddof: 1 as released (torch's std), 0 for numpy's.
    eps: added to the deviation.

  Returns:
    `[N]` f32; a shared step has the mean over the episodes through it, 0 where no ended episode runs through.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_grpo_passk_outcome_advantage`.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  largest = lambda where: jax.ops.segment_max(jnp.where(where, ret, -jnp.inf), n.group, ret.shape[0])[n.group]
  best = on & (ret == largest(on))
  second = largest(on & ~best)
  alone = groups.group_stats(ret, n.group, best).count == 1
  lead = jnp.where(best & alone & (second > -jnp.inf), ret - second, 0.)
  spread = groups.group_stats(ret, n.group, on).std(ddof) + eps if std else 1.
  return tree.leaf_mean(lead / spread, on, n.parent)
