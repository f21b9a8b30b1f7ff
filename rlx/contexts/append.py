"""The whole history, as it was said."""

from collections.abc import Sequence

from rlx.types import Said, Task, Turn


def append(history: Sequence[Turn], task: Task) -> list[str | Said]:
  """Every observation and every action so far: nothing is ever read twice.

  Args:
    history: the turns of one path; the last one has no action yet, nor has the first where on_full='window' dropped turns.
    task: not used.

  Returns:
    Message parts: texts, encoded once, and `Said(step)` for the ids of an earlier action.
  """
  del task
  parts = []
  for step, turn in enumerate(history):
    parts.append(turn.obs)
    if turn.text is not None:
      parts.append(Said(step))
  return parts
