"""RLVMR: an episode against its prompt, plus what a step's reasoning was paid against steps that reason in the same way."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def rlvmr(batch: Batch, *, channel: str = 'task', meta: str = 'meta', tag: str = 'tag', mode: str = 'released',
          weight: float = 0.5, alpha: float = 0.5, std: bool = True, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Advantages from rewards for planning, exploring and reflecting (arXiv:2507.22844).

    released: A = A^E + weight A^T      A^E among the steps of the prompt, A^T among those with its tag
    paper:    A = alpha A^E + (1 - alpha) A^T      A^E among the episodes of the prompt, A^T among all steps with its tag

  A^E = (R - mean) / (std + eps), R the return of the episode; A^T = (x - mean) / (std + eps), x the reward of the step's
  reasoning.

  Args:
    batch: reads `reward[channel]`, `reward[meta]` and `label[tag]` (equal = same tag).
    channel: reward channel of the outcome.
    meta: reward channel of the reasoning, each step's own (reward `rlvmr`). A step without a verdict has no A^T and is in
      no group.
    tag: label of the tag (label function `tagged`); steps without a tag are a group of their own.
    mode: 'released' or 'paper'.
    weight: of A^T as released: 0.5 in the released config, 1 in its ALFWorld script.
    alpha: of A^E in the paper.
    std: divide by the deviations.
    ddof: of the deviations.
    eps: added to the deviations.

  Returns:
    `[N]` f32; 0 where no ended episode runs through; R of a shared step is the mean over its episodes. A group of one: R
    or x itself as released; 0 in the paper's form, which does not say (ours).

  Raises:
    ValueError: no such mode.

  Source: rhyang2021/CogRouter@b9978adc `rlvmr/core_rlvmr.py`: `compute_rlvmr_outcome_advantage`, `step_norm_reward_by_tag`.

  Proof: twin.
  """
  if mode not in ('released', 'paper'):
    raise ValueError(f"mode is 'released' or 'paper', not {mode!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  given = live & tree.judged(n, meta)

  def against(x, ids, where):
    z = groups.group_norm(x, ids, where, std=std, ddof=ddof, eps=eps)
    alone = where & (groups.group_stats(x, ids, where).count == 1)
    return jnp.where(alone, x, z) if mode == 'released' else z

  if mode == 'released':
    episode = against(tree.leaf_mean(ret, on, n.parent), n.group, live)
    return episode + weight * against(n.reward[meta], groups.dense_ids(n.group, n.label[tag]), given)
  episode = tree.leaf_mean(against(ret, n.group, on), on, n.parent)
  return alpha * episode + (1 - alpha) * against(n.reward[meta], groups.dense_ids(n.label[tag]), given)
