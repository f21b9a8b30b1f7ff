"""The flat group of GRPO: every prompt is answered several times from its start."""

from rlx.types import Expand, Explorer


def flat(*, width: int = 8) -> Explorer:
  """`width` independent rollouts a prompt (or as many as the task itself asks for)."""
  def init(task):
    return width if task.width is None else task.width

  def expand(wanted, view, key):
    del view, key
    return 0, [Expand(width=wanted)] if wanted else []

  return Explorer(init, expand)
