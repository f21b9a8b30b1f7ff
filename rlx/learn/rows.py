"""Which rows are trained: `(group) -> [Row]`, on a group whose steps are cut. A step is owned, and trained, once."""

from rlx import walk
from rlx.types import Group, Row

TRAINED = (1, 2)   # ends of an episode that gets credit


def paths(group: Group) -> list[Row]:
  """A row for each episode, from its first step to its end; where a context was rewritten, a new row starts.

  A shared step stands in the row of every episode through it and is owned by the first.
  """
  rows, taken = [], set()
  for i, node in enumerate(group.nodes):
    if node.end not in TRAINED:
      continue
    stretch = []
    for s in walk.path(group.nodes, i):
      if group.nodes[s].fresh and stretch:
        rows.append(_row(group, stretch, taken))
        stretch = []
      stretch.append(s)
    rows.append(_row(group, stretch, taken))
  return [r for r in rows if any(r.owns)]


def steps(group: Group) -> list[Row]:
  """A row for each step an episode runs through, with everything that was said before it as its prefix."""
  live = {s for i, node in enumerate(group.nodes) if node.end in TRAINED for s in walk.path(group.nodes, i)}
  return [Row(prefix=walk.ids_before(group.nodes, s), nodes=[s], owns=[True]) for s in sorted(live)]


def _row(group, stretch, taken):
  first = group.nodes[stretch[0]]
  owns = [s not in taken for s in stretch]
  taken.update(stretch)
  return Row(prefix=first.context, nodes=list(stretch), owns=owns)
