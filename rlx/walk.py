"""The tree on the host: paths, episodes, what was said before a step."""

from collections.abc import Iterable, Iterator, Sequence

from rlx.types import Episode, Group, Node


def path(nodes: Sequence[Node], i: int) -> list[int]:
  """Indices of the steps from a first step to step i."""
  steps = []
  while i >= 0:
    steps.append(i)
    i = nodes[i].parent
  return steps[::-1]


def episodes(group: Group, ends: Iterable[int] = (1, 2)) -> Iterator[Episode]:
  """The paths of a group that ended in one of `ends`."""
  for i, node in enumerate(group.nodes):
    if node.end in ends:
      steps = path(group.nodes, i)
      yield Episode(group.task, [group.nodes[s] for s in steps], steps)


def ids_before(nodes: Sequence[Node], i: int) -> list[int]:
  """All ids before the action of step i: its own context, and where that continues a path, the path."""
  parts, node = [], nodes[i]
  parts.append(node.context)
  while not node.fresh:
    node = nodes[node.parent]
    parts.append(node.ids)
    parts.append(node.context)
  return [t for part in reversed(parts) for t in part]
