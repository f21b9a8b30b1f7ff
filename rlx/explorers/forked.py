"""The plainest tree: rollouts that fork once."""

from rlx.types import Expand, Explorer


def forked(*, width: int = 4, steps: int = 2, branches: int = 2) -> Explorer:
  """`width` rollouts of a prompt, each of which goes on as `branches` after its first `steps` steps, unless it has ended by then.

  Args:
    width: rollouts before the fork (or as many as the task itself asks for).
    steps: shared by the branches of one.
    branches: of each.

  Raises:
    ValueError: no step before the fork, or no branch behind it.
  """
  if steps < 1 or branches < 1:
    raise ValueError(f'forked needs at least one step and one branch, not {steps} and {branches}')

  def init(task):
    return width if task.width is None else task.width

  def expand(wanted, view, seed):
    del seed
    if wanted > 0:
      return 0, [Expand(width=wanted, limit=steps)]
    if wanted < 0 or view.running:
      return wanted, []
    above = {n.parent for n in view.nodes}
    return -1, [Expand(node=i, width=branches) for i, n in enumerate(view.nodes) if not n.end and i not in above]
  return Explorer(init, expand)
