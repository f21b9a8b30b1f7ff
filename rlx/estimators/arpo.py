"""ARPO: tokens before a fork get the mean advantage of the rollouts that share them."""

from rlx import groups, tree
from rlx.types import Array, Batch


def arpo(batch: Batch, *, channel: str = 'task', std: bool = True, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Advantage attribution of ARPO (arXiv:2507.19849).

    A_i = (R_i - mean_g R) / (std_g R + eps) on the steps of rollout i alone;   a step that d rollouts share has the mean of their A

  The paper has two forms: 'hard' writes this mean, 'soft' leaves every rollout its own A and lets the equal ratios of the shared
  tokens average them in the loss of GRPO (the one its experiments use). Here a shared step is owned, and trained, by one row, so the
  loss sees the mean in both: they are one, and the same as `grpo`. What the paper adds is where to fork, which is an explorer's affair.

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    std: divide by the standard deviation of the group.
    ddof: 1 for torch's std, 0 for numpy's.
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 where no ended episode runs through.

  Source: RUC-NLPIR/ARPO, issue 6: what the authors say of both forms.

  Proof: guess: that a shared token counts once, not once for each of its rollouts.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  return tree.leaf_mean(groups.group_norm(ret, n.group, on, std=std, ddof=ddof, eps=eps), on, n.parent)
