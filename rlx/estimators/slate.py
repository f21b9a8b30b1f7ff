"""SLATE: the candidates for one step against each other."""

from rlx.estimators.step_grpo import step_grpo
from rlx.types import Array, Batch


def slate(batch: Batch, *, channel: str = 'turn', std: bool = True, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Step-level advantages among k candidates that share a prefix and differ in the next step (arXiv:2602.23440).

    A_j = (r_j - mean_k r) / (std_k r + eps),   k: the steps that follow the same previous step

  The rewards are a judge's: r_think + r_query of a search, r_think + r_answer + lambda (B - t) / B of an answer at step t of
  B. One candidate is then chosen, P(j) ~ exp(A_j / eta), and continued; the others have to stand as ended (cut off, end 2):
  an abandoned step has no credit. The paper's loss has the ratio exp(mean of the log-ratios) of each candidate. The released
  trainer reads none of this: it is GRPO on the chosen trajectory; the formula is that of its helper functions.

  Args:
    batch: reads `reward[channel]`.
    channel: reward channel, paid step by step.
    std: divide by the deviation of the candidates.
    ddof: 1 as released (torch's std).
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 for a candidate without others (NaN as released), for one without a verdict, and where no ended episode runs
    through.

  Source: algoprog/SLATE@cbab1531 `slate/training/step_level_algos.py::compute_step_level_advantage`.

  Proof: twin.
  """
  return step_grpo(batch, channel=channel, std=std, ddof=ddof, eps=eps)
