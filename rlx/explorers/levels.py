"""A tree grown level by level, for process advantages from outcomes (TreePS-RAG)."""

from rlx import walk
from rlx.types import Expand, Explorer


def levels(*, widths: tuple = (2, 2, 2), distinct: bool = True) -> Explorer:
  """Every step of a level is followed by as many next steps as the next level is wide (arXiv:2601.06922).

  Behind the last level each path goes on alone to its end, so a prompt has up to the product of `widths` leaves: 8 by
  default, at less than the cost of 8 rollouts. A level is grown when all of the one before has spoken. The paper grows its trees online
  within a budget of rollouts; levels and their widths are ours.

  Args:
    widths: next steps at each level, that of the question first.
    distinct: of siblings that said the same only the first goes on; the others are abandoned. The paper prunes
      by how alike the retrieved evidence is; what is compared here is the action (ours).

  Raises:
    ValueError: a width below 1, or none.

  Proof: guess: the shape of the tree and what is pruned.
  """
  if not widths or not all(isinstance(w, int) and w >= 1 for w in widths):
    raise ValueError(f'widths are whole numbers of at least 1, not {widths!r}.')

  def expand(level, view, key):
    del key
    if view.running or level == len(widths):
      return level, []
    seen, front = set(), [-1] if not level else []
    for i, node in enumerate(view.nodes):
      if node.end or len(walk.path(view.nodes, i)) != level:
        continue
      if not distinct or (node.parent, node.text) not in seen:
        front.append(i)
      seen.add((node.parent, node.text))
    limit = None if level + 1 == len(widths) else 1
    return level + 1, [Expand(node=i, width=widths[level], limit=limit) for i in front]

  return Explorer(lambda task: 0, expand)
