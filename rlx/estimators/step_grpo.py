"""Step-GRPO: a step's own reward against the steps that answered the same prompt."""

from rlx import groups, tree
from rlx.types import Array, Batch


def step_grpo(batch: Batch, *, channel: str = 'turn', same: str | None = None, std: bool = True, ddof: int = 1,
              eps: float = 1e-6) -> Array:
  """GRPO on single steps (R1-Router, arXiv:2505.22095): no return, each step is paid for itself.

    A_s = (r_s - mean_c r) / (std_c r + eps),   c: the steps that continue the same prefix

  There every step of a trajectory is a training example of its own, whose prompt is what stands before it.

  Args:
    batch: reads `reward[channel]`, and `label[same]` where it is named.
    channel: reward channel, paid step by step (`rlx.rewards.routed`).
    same: None: steps with the same previous step, and the first steps of one prompt; or a label: steps of the prompt where it
      is equal.
    std: divide by the standard deviation of the group.
    ddof: 1 as released (torch's std).
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 for the only step of its group, for a step without a verdict, and where no ended episode runs through. A
    missing verdict leaves the other steps of its episode in.

  Source: OpenBMB/R1-Router@c0a0c1ba `Easy-R1`, whose GRPO is the usual one on single-step prompts.

  Proof: twin.
  """
  n = batch.nodes
  live = tree.through(tree.ended(n), n.parent) & tree.judged(n, channel)
  key = groups.dense_ids(n.group, n.parent if same is None else n.label[same])
  return groups.group_norm(n.reward[channel], key, live, std=std, ddof=ddof, eps=eps)
