"""The k-step memory of the GiGPO and HGPO prompts."""

from collections.abc import Sequence

from rlx.types import Said, Task, Turn


def window(history: Sequence[Turn], task: Task, *, k: int = 2, header: str = '{prompt}') -> list[str | Said]:
  """The prompt, the last `k` actions with what was observed before each, and the newest observation.

  An action is repeated by its ids, so nothing that was sampled is tokenised again. As soon as a turn falls out of the window
  the context no longer continues the previous one, and a new row starts.

  Args:
    history: the turns of one path; the last one has no action yet, nor has the first where on_full='window' dropped turns.
    task: not used.
    k: actions remembered.
    header: the first part; `{prompt}` stands for the first observation.

  Source: the memory prompts of GiGPO (arXiv:2505.10978, appendix) keep the last 2 to 4 observation-action pairs.
  """
  del task
  parts = [header.replace('{prompt}', history[0].obs)]
  first = max(len(history) - 1 - k, 0)
  for step in range(first, len(history)):
    if step > 0:
      parts.append(history[step].obs)
    if history[step].text is not None:
      parts.append(Said(step))
  return parts
