"""Tree-GRPO: an episode against its prompt, and against the episodes of its own tree."""

import jax.numpy as jnp

from rlx import groups
from rlx.tree import fold_down, leaf_mean, returns
from rlx.types import Array, Batch


def tree_grpo(batch: Batch, *, channel: str = 'task', mode: str = 'both', tree: str = 'tree', std: bool = True, ddof: int = 1,
              eps: float = 1e-6, singleton: str = 'zero') -> Array:
  """Advantages between and within the trees of a prompt (arXiv:2509.21240).

    A_i = z_prompt(R_i) + z_tree(R_i),   z_g(x) = (x - mean_g x) / (std_g x + eps)

  The release has a fourth mode, 'tree_per_token', with the same sums over the pool of token rewards; it is no number a step,
  and not here.

  Args:
    batch: reads `reward[channel]`, and `label[tree]` where the batch has it.
    channel: reward channel.
    mode: 'both' (released 'tree'), 'renorm': z_tree of z_prompt (released 'tree_2norm'), 'tree': the second part alone
      (released 'tree_inner').
    tree: the label, at the end of an episode, that tells the trees of a prompt apart. Without it a tree is what grew from one
      first step.
    std: divide by the deviations.
    ddof: 1 as released (torch's std).
    eps: added to the deviations.
    singleton: z in a group of one: 'zero', or 'raw' the number itself (released).

  Returns:
    `[N]` f32, a shared step has the mean over its episodes; 0 where no ended episode runs through.

  Source: AMAP-ML/Tree-GRPO@90b17099 `verl/trainer/ppo/core_algos.py`: `compute_grpo_outcome_advantage`,
  `compute_tree_grpo_outcome_advantage`; `ray_trainer_ts.py::compute_advantage`.

  Proof: twin.
  """
  if mode not in ('both', 'renorm', 'tree'):
    raise ValueError(f"mode is 'both', 'renorm' or 'tree', not {mode!r}.")
  if singleton not in ('zero', 'raw'):
    raise ValueError(f"singleton is 'zero' or 'raw', not {singleton!r}.")
  n = batch.nodes
  ret, on = returns(n, channel)
  if tree in n.label:
    home = groups.dense_ids(n.group, n.label[tree])
  else:
    home = fold_down(jnp.where(n.parent < 0, jnp.arange(n.parent.shape[0], dtype=jnp.int32), 0), n.parent)   # the first step

  def z(x, ids):
    out = groups.group_norm(x, ids, on, std=std, ddof=ddof, eps=eps)
    return jnp.where(groups.group_stats(x, ids, on).count == 1, x, out) if singleton == 'raw' else out

  parts = dict(both=lambda: z(ret, n.group) + z(ret, home), renorm=lambda: z(z(ret, n.group), home), tree=lambda: z(ret, home))
  return leaf_mean(parts[mode](), on, n.parent)
