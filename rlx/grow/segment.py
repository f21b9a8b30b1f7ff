"""Segmenters: where an action is cut, and what its parts are called.

A segmenter is `(ids, text, offsets) -> [Span]`: `offsets[i]` are the first character of token i in the text and the one
behind its last, ascending (a token of no width, such as a special one, is fine). A span names the role of its tokens; with
`cut` it is also a step of its own. Spans may overlap, those with `cut` never do, and an action without any stays one step.
`writes` says the roles, for `tags` as a function of its keywords. A segmenter that reads text raises ValueError where there are not as many offsets as ids; one that does not is marked
`reads_text = False` and spared the decoding.
"""

import bisect
import operator
import re
from collections.abc import Sequence

from rlx.types import Span

Offsets = Sequence[tuple[int, int]]


def turns(ids: Sequence[int], text: str, offsets: Offsets) -> list[Span]:
  """The whole action, with the role 'action'."""
  del text, offsets
  return [Span(0, len(ids), frozenset({'action'}))]


turns.reads_text = False
turns.writes = ('role/action',)


def tags(ids: Sequence[int], text: str, offsets: Offsets, *, names: Sequence[str] = ('think', 'answer'),
         cut: bool = False) -> list[Span]:
  """Blocks `<name> ... </name>`, tags included; the role is the name.

  - A repeated tag opens another block with the same role.
  - A block that is never closed, or opened again before it is closed, ends at the next opening tag of any name, or with
    the text.
  - A block inside a block of another name keeps its own role and has the outer one too. Where the inner one reaches
    further, both end where they say, and the tokens in common have both roles.
  - A closing tag without a block, a tag that is not in `names`, and text outside are no block.
  - A token that stands across the edge of a block belongs to it.

  With `cut` each outermost block is a step, and every token is in one of these steps: what stands between two blocks goes
  with the one before it, what stands before the first with the first. A token across the edge of two blocks goes with the
  later one.

  Args:
    ids: the action's ids.
    text: their text.
    offsets: characters of each token.
    names: tags to look for, case as written.
    cut: whether blocks become steps.

  Returns:
    One span a block in the order of their opening tags, then the steps if there are any.
  """
  starts, stops = _edges(ids, offsets)
  blocks = list(_blocks(text, names))
  spans = [Span(bisect.bisect_right(stops, a), bisect.bisect_left(starts, b), frozenset({name}))
           for name, a, b in blocks]
  if not cut or not spans:
    return spans
  outer, reach = [], -1
  for (_, a, b), span in zip(blocks, spans):
    if a >= reach and (not outer or span.start > outer[-1]):
      outer.append(span.start)
    reach = max(reach, b)
  edges = [0, *outer[1:], len(ids)]
  return spans + [Span(a, b, cut=True) for a, b in zip(edges, edges[1:])]


tags.writes = lambda names=('think', 'answer'), cut=False: tuple(f'role/{n}' for n in names)

def words(ids: Sequence[int], text: str, offsets: Offsets, *, of: Sequence[str] = ('wait', 'however', 'check'),
          role: str = 'trigger') -> list[Span]:
  """Tokens of the given words, with one role; an action stays one step. Case does not matter, and a word is not found inside another.

  Args:
    ids: the action's ids.
    text: their text.
    offsets: characters of each token.
    of: the words.
    role: its name.
  """
  starts, stops = _edges(ids, offsets)
  found = re.finditer(r'(?<!\w)(?:' + '|'.join(map(re.escape, of)) + r')(?!\w)', text, re.IGNORECASE) if of else ()
  spans = [Span(bisect.bisect_right(stops, m.start()), bisect.bisect_left(starts, m.end()), frozenset({role})) for m in found]
  return [Span(0, len(ids), frozenset({'action'})), *spans]


words.writes = lambda of=(), role='trigger': (f'role/{role}', 'role/action')


def sentences(ids: Sequence[int], text: str, offsets: Offsets, *, cut: bool = True) -> list[Span]:
  """Sentences, with the role 'action': they end behind '.', '!' or '?' before whitespace, and behind a line.

  'e.g. this' is cut and '3.14' is not. Whitespace inside a line goes with what follows it, as tokens have it. Every token
  is in one sentence, the one that holds its first character; a sentence without such a token is none.
  """
  starts, _ = _edges(ids, offsets)
  ends = [m.end() for m in re.finditer(r'[.!?]+(?:\s*\n|(?=\s))|\s*\n', text)]
  edges = [bisect.bisect_left(starts, e) for e in ends if e < len(text.rstrip())]
  edges = sorted({0, len(ids), *edges})
  return [Span(a, b, frozenset({'action'}), cut) for a, b in zip(edges, edges[1:])]


sentences.writes = ('role/action',)


def tokens(ids: Sequence[int], text: str, offsets: Offsets, *, k: int = 64, cut: bool = True) -> list[Span]:
  """Pieces of k tokens, the last one shorter, with the role 'action'.

  Raises:
    ValueError: k below 1.
  """
  del text, offsets
  if k < 1:
    raise ValueError(f'segment.tokens cuts every k tokens; k must be 1 or more, got {k}')
  return [Span(a, min(a + k, len(ids)), frozenset({'action'}), cut) for a in range(0, len(ids), k)]


tokens.reads_text = False
tokens.writes = ('role/action',)


def _edges(ids, offsets):
  if len(offsets) != len(ids):
    raise ValueError(f'this segmenter reads text and needs the characters of each token: {len(ids)} ids, '
                     f'{len(offsets)} offsets')
  return list(map(operator.itemgetter(0), offsets)), list(map(operator.itemgetter(1), offsets))


def _blocks(text, names):
  """(name, first character, the one behind the last) of each block."""
  if not names:
    return
  found = list(re.finditer('<(/?)(' + '|'.join(map(re.escape, names)) + ')>', text))
  for i, m in enumerate(found):
    if m[1]:
      continue
    later = found[i + 1:]
    same = next((f for f in later if f[2] == m[2]), None)
    if same is not None and same[1]:
      yield m[2], m.start(), same.end()
    else:
      yield m[2], m.start(), next((f.start() for f in later if not f[1]), len(text))
