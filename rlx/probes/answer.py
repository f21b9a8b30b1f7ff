"""How likely the right answer has become, step by step."""

from collections.abc import Sequence

from rlx.types import Probe, View

writes = ('value/p_answer', 'prompt/p_answer')


def answer(view: View, *, key: str = 'answer', before: str = '', reduce: str = 'mean_logp') -> Sequence[Probe]:
  """Log-probability of a given answer, forced below the question and below every step that goes on.

    value['p_answer'] = mean_l log pi(y*_l | what was said so far, before, y*_<l)

  Args:
    view: a finished prompt; `task.data[key]` is the answer's text.
    key: where the task has it.
    before: text forced in front of the answer, not scored.
    reduce: 'mean_logp' | 'sum_logp'.

  Raises:
    KeyError: the task has no answer under that key.

  Source: the teacher-forced answer of IGPO and of SPAE's accuracy term (arXiv:2601.03823).

  Proof: twin.
  """
  data = view.task.data
  if not hasattr(data, 'keys') or key not in data:
    raise KeyError(f"task '{view.task.id}' has no '{key}' to be probed")
  suffix = before + str(data[key])
  return [Probe(node=i, name='p_answer', suffix=suffix, score_from=len(before), reduce=reduce)
          for i in [-1, *(j for j, n in enumerate(view.nodes) if n.end == 0)]]
