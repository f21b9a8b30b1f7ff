"""How likely the right answer has become, step by step."""

from collections.abc import Mapping, Sequence

from rlx.types import Probe, View

writes = ('value/p_answer', 'prompt/p_answer')


def answer(view: View, *, key: str = 'answer', before: str = '', reduce: str = 'mean_logp') -> Sequence[Probe]:
  """Log-probability of a given answer, forced below the question and below every step that goes on.

    value['p_answer'] = mean_l log pi(y*_l | what was said so far, the newest observation, before, y*_<l)

  Args:
    view: a finished prompt; `task.data[key]` is the answer's text.
    key: where the task has it, a field or a key of its data.
    before: text forced in front of the answer, not scored.
    reduce: 'mean_logp' | 'sum_logp'.

  Raises:
    ValueError: the task has no answer under that key.

  Source: the teacher-forced answer of IGPO and of SPAE's accuracy term (arXiv:2601.03823).

  Proof: twin.
  """
  data = view.task.data
  gold = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
  if gold is None:
    raise ValueError(f"answer needs tasks whose data has '{key}', as a field or a key; task '{view.task.id}' has none.")
  suffix = before + str(gold)
  return [Probe(node=i, name='p_answer', suffix=suffix, score_from=len(before), reduce=reduce)
          for i in [-1, *(j for j, n in enumerate(view.nodes) if n.end == 0)]]
