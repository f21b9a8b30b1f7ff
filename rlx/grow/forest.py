"""Cutting the steps of a finished prompt into pieces. Ids are the truth; nothing here tokenises."""

import copy
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from rlx.types import Group, Span


def cut(group: Group, segment: Callable | None = None, offsets: Callable | None = None) -> Group:
  """Cuts steps where a segmenter or a branch says so; every piece is a node of its own.

  A branch that left step s after `at` ids becomes a child of the piece of s that ends there, so the ids both share stand
  once. The first piece keeps the context, every piece the labels, the last one rewards, values, metrics and the end.

  Args:
    group: a finished prompt.
    segment: `(ids, text, offsets) -> [Span]`, or None for one piece a step and no roles.
    offsets: `ids -> (text, [(start, stop)])`, needed by a segmenter that reads text; one marked `reads_text = False` gets neither.

  Returns:
    The group with cut nodes; the same group where there is nothing to do.
  """
  stems = {}
  for node in group.nodes:
    if node.stem:
      _stem_root(group.nodes, *node.stem, stems)
  if segment is None and not stems:
    return group
  pieces, last, at_offset = [], {}, {}
  read = (lambda node: _text(node, offsets)) if getattr(segment, 'reads_text', True) else (lambda node: ('', []))
  for i, node in enumerate(group.nodes):
    n = len(node.ids)
    spans = [] if segment is None or node.by != 'policy' else segment(node.ids, *read(node))
    start = node.stem[1] if node.stem else 0
    marks = sorted({start, n} | {o for o in stems.get(i, ()) if start < o < n} | {
        o for s in spans if s.cut for o in (s.start, s.stop) if start < o < n})
    role = roles(spans, n)
    if node.stem:
      owner, offset = _owner(group.nodes, *node.stem)
      parent = at_offset[owner, offset] if offset else last.get(group.nodes[owner].parent, -1)
    else:
      parent = last.get(node.parent, -1)
    if len(marks) <= 2 and not start:      # one piece
      pieces.append(copy.copy(node))
      pieces[-1].parent, pieces[-1].stem, pieces[-1].role = parent, None, role
      last[i] = at_offset[i, n] = len(pieces) - 1
      continue
    if len(marks) == 1:
      marks = [start, n]
    for a, b in zip(marks[:-1], marks[1:], strict=True):
      end_piece, first = b == n and a == marks[-2], a == 0
      pieces.append(dataclasses.replace(
          node, parent=parent, stem=None, context=node.context if first else [], fresh=node.fresh and first,
          obs=node.obs if first else '', text=node.text if end_piece else '',
          ids=node.ids[a:b], sampled=node.sampled[a:b], logp=node.logp[a:b],
          stream={k: v[a:b] for k, v in node.stream.items()}, role={k: v[a:b] for k, v in role.items()},
          end=node.end if end_piece else 0, reward=node.reward if end_piece else {},
          value=node.value if end_piece else {}, metrics=node.metrics if end_piece else {}))
      parent = len(pieces) - 1
      at_offset[i, b] = parent
    last[i] = parent
  return dataclasses.replace(group, nodes=pieces)


def _owner(nodes, i, at):
  """The step that really drew the id before offset `at` of step i: a stem's own stem, if the offset lies inside it."""
  while nodes[i].stem and at <= nodes[i].stem[1]:
    i = nodes[i].stem[0]
  return i, at


def _stem_root(nodes, i, at, stems):
  owner, at = _owner(nodes, i, at)
  if at:
    stems.setdefault(owner, set()).add(at)


def _text(node, offsets):
  if offsets is None:
    return node.text, []
  return offsets(node.ids)


def roles(spans: Sequence[Span], n: int) -> dict[str, np.ndarray]:
  """`role -> [n] bool` of an action's spans."""
  out = {}
  for s in spans:
    for r in s.roles:
      out.setdefault(r, np.zeros(n, bool))[s.start:s.stop] = True
  return out
