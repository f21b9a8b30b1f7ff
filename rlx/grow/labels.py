"""Labels: what makes two steps the same. Strings and other hashables become integers here, once, on the host.

A label function `(nodes: Sequence[Node]) -> list of hashables` sees the steps of one prompt. `intern` turns the lists of a
whole batch into one i32 column. Estimators never see a string.
"""

import collections
import difflib
import itertools
import operator
import re
import zlib
from collections.abc import Hashable, Sequence

import numpy as np

from rlx.types import Node

__all__ = ('named', 'exact', 'normalised', 'block', 'drawn', 'similar', 'switched', 'tagged')


def named(nodes: Sequence[Node], *, name: str) -> list[Hashable]:
  """What the environment or a segmenter called the steps: `node.label[name]`, None where it said nothing."""
  return [n.label.get(name) for n in nodes]


def exact(nodes: Sequence[Node], *, of: str = 'obs') -> list[Hashable]:
  """The text itself (the anchors of GiGPO, arXiv:2505.10978, use the observation).

  A piece that a segmenter cut off has no observation of its own: with 'obs' it is what the piece before it is, with that
  one's ids.

  Args:
    nodes: steps of one prompt.
    of: the field of the step to read: 'obs' or 'text'.
  """
  texts = list(map(operator.attrgetter(of), nodes))
  if of == 'obs' and '' in texts:
    for i, n in enumerate(nodes):      # parents stand before children
      if not n.obs and not n.context and not n.fresh and n.parent >= 0:
        texts[i] = texts[n.parent], tuple(nodes[n.parent].ids)
  return texts


def normalised(nodes: Sequence[Node], *, of: str = 'obs') -> list[Hashable]:
  """The text without case, and with every run of whitespace as one space, none at the ends.

  Nothing else is forgiven: 'drawer 1' and 'drawer 2', 'a, b' and 'a b' stay different. Each distinct text is read once.

  Args:
    nodes: steps of one prompt.
    of: the field of the step to read: 'obs' or 'text'.
  """
  texts = exact(nodes, of=of)
  fold = lambda t: ' '.join(t.casefold().split()) if isinstance(t, str) else (fold(t[0]), t[1])
  plain = {t: fold(t) for t in set(texts)}
  return [plain[t] for t in texts]


def drawn(nodes: Sequence[Node]) -> list[Hashable]:
  """1 on a step that was sampled, 0 on one that was drawn greedily (ReMax, arXiv:2310.10505).

  Args:
    nodes: steps of one prompt.
  """
  return [int(not n.greedy) for n in nodes]


def similar(nodes: Sequence[Node], *, of: str = 'obs', threshold: float = 0.95) -> list[Hashable]:
  """The first text that this one is like: clusters by greedy first fit (arXiv:2505.10978; arXiv:2603.18079 has 0.85).

  A text joins the first cluster whose first member it resembles by `difflib.SequenceMatcher`, with

    ratio = 2 * matching characters / (characters of both)  >=  threshold

  and otherwise opens one. So the order of steps matters, and the members of a cluster may be less like one another. Texts of
  200 characters or more are compared as `difflib` does by default, without the characters that are frequent in the cluster's
  first member. Each distinct text is compared once.

  Args:
    nodes: steps of one prompt.
    of: the field of the step to read: 'obs' or 'text'.
    threshold: 0.95 in the configuration of GiGPO, 0.9 in its search scripts.

  Source: vanzll/verl-agent@d0b97244 `gigpo/core_gigpo.py::build_step_group`, `are_similar`.

  Proof: twin.
  """
  clusters, head = [], {}

  def fits(m, text):   # two cheap upper bounds first
    m.set_seq1(text)
    return all(ratio() >= threshold for ratio in (m.real_quick_ratio, m.quick_ratio, m.ratio))

  def first(t):
    if not isinstance(t, str):   # a piece: what the piece before it is, with that one's ids
      return first(t[0]), t[1]
    if t not in head:
      m = next((m for m in clusters if fits(m, t)), None)
      if m is None:
        m = difflib.SequenceMatcher(b=t)
        clusters.append(m)
      head[t] = m.b
    return head[t]

  return [first(t) for t in exact(nodes, of=of)]


def tagged(nodes: Sequence[Node], *, tags: Sequence[str] = ('planning', 'explore', 'reflection', 'monitor'),
           valid: str = 'valid') -> list[Hashable]:
  """The first of `tags` that opens in the text of a step, 'none' where none does (RLVMR, arXiv:2507.22844).

  Args:
    nodes: steps of one prompt.
    tags: names, the strongest first: a step with several has the first of them, wherever it stands.
    valid: metric that is 0 on a malformed action, which has no tag.
  """
  of = lambda n: next((t for t in tags if f'<{t}>' in n.text), 'none')
  return [of(n) if n.metrics.get(valid, 1.) > 0 else 'none' for n in nodes]


def switched(nodes: Sequence[Node], *, tag: str = 'switch', keep: str = 'KEEP') -> list[Hashable]:
  """True where a step says in its first `<tag> ... </tag>` something else than `keep`, case aside (HiPER, arXiv:2602.16165).

  Args:
    nodes: steps of one prompt.
    tag: the block that decides; without it, or where it is empty, the step keeps.
    keep: what is said to keep.
  """
  said = [_inside(n.text, tag) for n in nodes]
  return [s != '' and s.upper() != keep.upper() for s in said]


def block(nodes: Sequence[Node], *, tag: str = 'plan') -> list[Hashable]:
  """What a step says in its first `<tag> ... </tag>`, as a number: a hash of it, above 0; 0 where it says nothing.

  Args:
    nodes: steps of one prompt.
    tag: name of the block.
  """
  said = [_inside(n.text, tag) for n in nodes]
  return [1 + zlib.crc32(s.encode()) % (2**31 - 1) if s else 0 for s in said]


def _inside(text, tag):
  found = re.search(f'<{re.escape(tag)}>(.*?)</{re.escape(tag)}>', text, re.DOTALL)
  return found[1].strip() if found else ''


def intern(columns: Sequence[Sequence[Hashable]]) -> np.ndarray:
  """Hashables to integers, equal to equal, over a whole batch in one pass.

  Integers and booleans that fit in 32 bits stand for themselves (`label['turn']`, `label['switch']`: their value has a
  meaning) and None for 0. Anything else gets dense ids in the order of first sight, and each None an id of its own: a step
  without a label equals no other.

  Args:
    columns: the values of each prompt, one a step.

  Returns:
    `[N]` i32, the prompts one behind the other.
  """
  n = sum(map(len, columns))
  ids = collections.defaultdict(itertools.count().__next__)   # an unknown key takes the next number
  column = np.fromiter(map(ids.__getitem__, itertools.chain.from_iterable(columns)), np.int32, n)
  missing = ids.get(None)
  keys = list(ids)
  if all(k is None or _fits(k) for k in keys):
    return np.array([0 if k is None else int(k) for k in keys], np.int32)[column]
  if missing is not None:
    at = np.flatnonzero(column == missing)
    column[at[1:]] = len(ids) + np.arange(len(at) - 1, dtype=np.int32)
  return column


def _fits(key):
  return isinstance(key, (int, np.integer, np.bool_)) and -2**31 <= key < 2**31
