"""How likely the right answer is from each step on: the value of the prover that PAV measures progress by."""

from collections.abc import Sequence

import numpy as np

from rlx.probes.answer import answer
from rlx.types import Probe, View

writes = ('value/prover', 'prompt/prover')


def prover(view: View, *, key: str = 'answer', before: str = '', per: str = 'answer', steps: bool = True) -> Sequence[Probe]:
  """Probability of the right answer, forced below the question and below every step that goes on (arXiv:2410.08146).

    value['prover'] = prod_m pi(y*_m | what was said so far, the newest observation, before, y*_<m)

  It is the chance of the policy that answers at once, and stands for the p of estimator `pav`, which makes the best of K of
  it. In the paper p is the share of rollouts of the prover that are right (and a trained model repeats it); a continuation
  that is sampled here gives its log-probabilities and no verdict, so the answer is forced (ours).

  Args:
    view: a finished prompt; `task.data[key]` is the answer's text.
    key: where the task has it, a field or a key of its data.
    before: text forced in front of the answer, not scored.
    per: 'answer', or 'token': the geometric mean over its tokens, for answers so long that each is unlikely (ours).
    steps: ask below the steps too; otherwise only below the question, which is all that a baseline needs (estimator `v05`).

  Raises:
    ValueError: the task has no answer under that key; no such `per`.

  Proof: guess: that the answer is forced.
  """
  if per not in ('answer', 'token'):
    raise ValueError(f"per is 'answer' or 'token', not {per!r}.")
  reduce = chance if per == 'answer' else geometric
  return [p._replace(name='prover', reduce=reduce) for p in answer(view, key=key, before=before) if steps or p.node < 0]


def chance(logp: np.ndarray, entropy: np.ndarray | None = None) -> float:
  """exp(sum of the log-probabilities)."""
  return float(np.exp(np.sum(logp)))


def geometric(logp: np.ndarray, entropy: np.ndarray | None = None) -> float:
  """exp(mean of the log-probabilities)."""
  return float(np.exp(np.mean(logp)))
