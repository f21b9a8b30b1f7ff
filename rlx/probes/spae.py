"""How sure the model is of an answer now, and how sure it would be of the right one: what SPAE's potential is made of."""

from collections.abc import Mapping, Sequence

import numpy as np

from rlx.types import Probe, View

writes = ('value/conf', 'value/acc')


def spae(view: View, *, key: str = 'answer', before: str = '**Final Answer**\n\\boxed{', samples: int = 5, limit: int = 10,
         mode: str = 'paper') -> Sequence[Probe]:
  """Confidence and accuracy of an answer forced below each step (arXiv:2601.03823).

    conf = mean over samples of exp(-mean_l H_l)       H: entropies of a continuation of `before`
    acc  = mean_m pi(y*_m | the path, before, y*_<m)   y*: the right answer, teacher-forced

  Steps of every kind are asked but failed ones; SPAE's are sentences of a thought, here a step is what the environment answers (one
  that a segmenter cuts off later has no probe). The paper samples at 0.6, here at the run's own temperature.

  Args:
    view: a finished prompt; `task.data[key]` is the answer's text.
    key: where the task has it, a field or a key of its data.
    before: text forced in front of the answer.
    samples: continuations of it a step.
    limit: tokens of a continuation.
    mode: 'paper', or 'released': exp(-sum_l H_l) / L and exp(sum_m log pi) / M, the exponential taken of the sum.

  Raises:
    ValueError: the task has no answer under that key; no such mode.

  Source: cii030/SPAE-RL@ed529f8a `inference/probe_mechanism_example.py` (entropies of the 20 likeliest tokens there, of all here).

  Proof: twin.
  """
  if mode not in ('paper', 'released'):
    raise ValueError(f"mode is 'paper' or 'released', not {mode!r}.")
  data = view.task.data
  gold = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
  if gold is None:
    raise ValueError(f"spae needs tasks whose data has '{key}', as a field or a key; task '{view.task.id}' has none.")
  conf, acc = (confidence, accuracy) if mode == 'paper' else (released_confidence, released_accuracy)
  asked = [i for i, n in enumerate(view.nodes) if n.end != 3]
  return [*(Probe(node=i, name='conf', suffix=before, score_from=len(before), samples=samples, limit=limit, reduce=conf) for i in asked),
          *(Probe(node=i, name='acc', suffix=before + str(gold), score_from=len(before), reduce=acc) for i in asked)]


def confidence(logp: np.ndarray, entropy: np.ndarray) -> float:
  """exp(-mean entropy)."""
  return float(np.exp(-np.mean(entropy)))


def accuracy(logp: np.ndarray, entropy: np.ndarray | None) -> float:
  """Mean probability of the forced tokens."""
  return float(np.mean(np.exp(logp)))


def released_confidence(logp: np.ndarray, entropy: np.ndarray) -> float:
  """exp(-sum of the entropies) / their number."""
  return float(np.exp(-np.sum(entropy)) / len(entropy))


def released_accuracy(logp: np.ndarray, entropy: np.ndarray | None) -> float:
  """exp(sum of the log-probabilities) / their number."""
  return float(np.exp(np.sum(logp)) / len(logp))
