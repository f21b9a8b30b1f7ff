"""Sampled rollouts, and a greedy one to compare them with: the group of ReMax."""

from rlx.types import Expand, Explorer

writes = ('stream/temperature',)


def flat_and_greedy(*, width: int = 8) -> Explorer:
  """`width` sampled rollouts a prompt (or as many as the task itself asks for) and one greedy rollout (arXiv:2310.10505).

  The label function `drawn` tells them apart.
  """
  def init(task):
    return width if task.width is None else task.width

  def expand(wanted, view, key):
    del view, key
    return 0, [Expand(width=wanted), Expand(sampling=dict(temperature=0.))] if wanted else []

  return Explorer(init, expand)
