"""A forest as a picture: SVG text by itself, PNG through matplotlib.

`draw` takes a batch (`toy.draw(batch, adv)`), `trees` takes steps from anywhere. What names and texts hold is escaped.
"""

import html
import math
import pathlib
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlx import masked
from rlx.types import Advantages, Batch

PLUS, MINUS = (86, 180, 233), (230, 159, 0)           # sky blue and orange of Okabe and Ito: dark text stays readable on both
INK, DIM, PALE, RULE = '#1b1f24', '#333a42', '#868e98', '#8b919a'
ENDS = ('', '\N{BLACK CIRCLE} done', '\N{CIRCLE WITH LEFT HALF BLACK} cut', '\N{BALLOT X} failed')
LEFT = '\N{WHITE CIRCLE} abandoned'
DASHES = {ENDS[2]: (4, 2), ENDS[3]: (1, 2)}
SIZE, LINE, PAD, HALF = 10, 13, 5, 16                 # pixels: of the text, from line to line, around it, half a bar


class Drawing(str):
  """SVG text that a notebook shows by itself."""

  def _repr_svg_(self) -> str:
    return str(self)

  def __repr__(self) -> str:
    return f'<Drawing, {len(self):,} characters of SVG>'


class Step(NamedTuple):
  """A step as it is drawn; parents come before their children."""
  parent: int                # index among the steps drawn, -1 at a first step
  group: int
  head: str                  # first line: its number, how it ended
  said: str = ''             # at the right of the first line
  fill: str = '#ffffff'
  lines: Sequence[str] = ()
  bars: Sequence[tuple[str, float, float]] = ()     # name, value, share of the column's largest
  dash: tuple = ()
  pale: bool = False         # it gets no credit


class Box(NamedTuple):
  x: float
  y: float
  w: float
  h: float
  fill: str
  stroke: str = 'none'
  dash: tuple = ()
  round: float = 0.


class Text(NamedTuple):
  x: float
  y: float
  text: str
  fill: str = INK
  anchor: str = 'start'      # 'start' | 'end'
  bold: bool = False


class Lines(NamedTuple):
  paths: Sequence[Sequence[tuple[float, float]]]


# ---- a batch -----------------------------------------------------------------------------------------------------------

def draw(batch: Batch, *columns, names: Sequence[str] = ('adv',), file: str | pathlib.Path | None = None,
         text: Sequence[str] | None = None, also: Sequence[str] | None = None, down: bool = False, panels: int = 0,
         scale: float | None = None, most: int = 400) -> Drawing:
  """A drawing of the trees of a batch: a box a step, blue above zero, orange below, white at it.

  A shared step is one box with several behind it. Ends are marked, and boxes that get no credit are pale. The first column colours the
  boxes; further ones stand in them as bars. Rewards of 0 are left out, except where something ended.

  Args:
    batch: any batch, a toy one or not.
    *columns: `[N]`, or `[R, T]` (the mean over the trained tokens of each step is shown), or `Advantages`.
    names: one for each column.
    file: also write it there, as .svg or .png.
    text: `[N]` a line for each box.
    also: rewards, labels and values to be shown, by name; None: all of them.
    down: from top to bottom instead of left to right.
    panels: a tree for each column, so many beside each other; 0: one tree with all columns on it.
    scale: where the colour is full; None: at the largest number of each column.
    most: steps that are drawn; how many are left out is said below.

  Returns:
    The SVG text.

  Raises:
    ValueError: not as many names as columns, a text too many or too few, a name in `also` that the batch lacks, another kind of file,
      a scale that is not above 0.
  """
  if file is not None and pathlib.Path(file).suffix not in ('.svg', '.png'):
    raise ValueError(f"a drawing is written as .svg or .png, not as '{file}'.")
  if scale is not None and not scale > 0:
    raise ValueError(f'scale is a number above 0, not {scale}.')
  named = list(by_step(batch, columns, names).items())
  full = {k: _largest(x) if scale is None else float(scale) for k, x in named}

  def panel(part, x, y):
    shapes, right = _legend(x, y, part[0][0], full[part[0][0]]) if part else ([], x)
    parts, edge, bottom = trees(_steps(batch, part, full, text, also, most), down=down, x=x, y=y + (2 * SIZE if part else 0))
    return shapes + parts, max(right, edge), bottom
  parts = [[c] for c in named] if panels and named else [named]
  cell = max(panel(p, 0, 0)[1] for p in parts) + 3 * PAD if len(parts) > 1 else 0.
  shapes, y, wide, high = [], PAD, 0., 0.
  for i, part in enumerate(parts):
    y = high + 2 * LINE if i and i % panels == 0 else y
    more, right, bottom = panel(part, PAD + (i % panels if panels else 0) * cell, y)
    shapes += more
    wide, high = max(wide, right), max(high, bottom)
  more = int(np.sum(batch.nodes.valid)) - most
  if more > 0:
    high += LINE + PAD
    shapes.append(Text(PAD, high, f'and {more:,} more steps', DIM))
    wide = max(wide, 150.)
  wide, high = wide + PAD, high + PAD
  out = Drawing(svg(shapes, wide, high, ', '.join(k for k, _ in named) or 'a forest'))
  if file is not None and pathlib.Path(file).suffix == '.svg':
    pathlib.Path(file).write_text(out, encoding='utf-8')
  elif file is not None:
    _png(shapes, wide, high, file)
  return out


def by_step(batch: Batch, columns: Sequence, names: Sequence[str]) -> dict[str, np.ndarray]:
  """name -> `[N]` f32, of columns as `draw` takes them.

  Raises:
    ValueError: not as many names as columns.
  """
  if len(names) < len(columns):
    raise ValueError(f'{len(columns)} columns but {len(names)} names ({", ".join(names)}): pass names=.')
  found = {}
  for k, x in zip(names, columns, strict=False):
    x = jnp.asarray(x.adv if isinstance(x, Advantages) else x)
    found[k] = np.asarray(masked.node_mean(x.astype(jnp.float32), batch) if x.ndim == 2 else x)
  return found


def _largest(x):
  return float(np.abs(x[np.isfinite(x)]).max(initial=0.)) or 1.


def _steps(batch, named, full, text, also, most):
  """The valid steps, at most so many, as they are drawn."""
  n = batch.nodes
  parent, group, end, valid = (np.asarray(x).tolist() for x in (n.parent, n.group, n.end, n.valid))
  label, reward, value = ({k: np.asarray(x).tolist() for k, x in table.items() if also is None or k in also}
                          for table in (n.label, n.reward, n.value))
  judged = {k: np.asarray(x).tolist() for k, x in n.judged.items()}
  if missing := sorted(set(also or ()) - {*label, *reward, *value}):
    raise ValueError(f"no reward, label or value '{missing[0]}'; this batch has {sorted({*n.reward, *n.label, *n.value})}")
  if text is not None and len(text) != len(parent):
    raise ValueError(f'{len(text)} texts for {len(parent)} steps.')
  every = [i for i, ok in enumerate(valid) if ok]
  inner, live = {parent[i] for i in every}, set()
  for i in reversed(every):
    if end[i] in (1, 2) or i in live:
      live |= {i, parent[i]}
  out, place = [], {-1: -1}
  for i in every[:most]:
    place[i] = len(out)
    mark = ENDS[end[i]] if end[i] or i in inner else LEFT
    paid = [f'{k} ?' if k in judged and not judged[k][i] else f'{k} {plain(x[i])}' for k, x in reward.items()
            if x[i] or end[i] or k in judged and not judged[k][i]]
    lines = [[] if text is None else [text[i]], _filled(paid), _filled(f'{k} {x[i]}' for k, x in label.items()),
             _filled(f'{k} {plain(x[i])}' for k, x in value.items())]
    one = Step(place[parent[i]], group[i], f'{i} {mark}'.rstrip(), lines=sum(lines, []), dash=DASHES.get(mark, ()), pale=i not in live)
    if named:
      (_, number, top), *others = [(k, float(x[i]), full[k]) for k, x in named]
      one = one._replace(said=signed(number), fill=color(number, top), bars=[(k, x, _share(x, m)) for k, x, m in others])
    out.append(one)
  return out


def _filled(items, room=26):
  """Items put into lines of so many characters."""
  lines = []
  for item in items:
    if lines and len(lines[-1]) + len(item) + 2 <= room:
      lines[-1] += ', ' + item
    else:
      lines.append(item)
  return lines


def _legend(x, y, name, full):
  """(shapes, right edge): a column's name and what its colours mean."""
  name, low, high = clipped(name, 240), signed(-full), signed(full)
  at = x + 1.1 * _room(name) + 10
  shapes = [Text(x, y + SIZE, name, bold=True), Text(at, y + SIZE, low, DIM)]
  at += _room(low) + 5
  shapes += [Box(at - 1, y + 1, 65, SIZE + 1, RULE)] + [Box(at + 7 * k, y + 2, 7, SIZE - 1, color(k / 4 - 1, 1.)) for k in range(9)]
  shapes.append(Text(at + 67, y + SIZE, high, DIM))
  return shapes, at + 67 + _room(high)


# ---- numbers and texts -------------------------------------------------------------------------------------------------

def _share(x, full):
  return 0. if math.isnan(x) else max(-1., min(1., x / full))


def color(x: float, full: float) -> str:
  """White at 0, blue above, orange below, deepest at `full`; gray where there is no number."""
  if math.isnan(x):
    return '#dddddd'
  share = _share(x, full)
  return '#' + ''.join(f'{round(255 + abs(share) * (c - 255)):02x}' for c in (PLUS if share > 0 else MINUS))


def plain(x: float) -> str:
  """Three digits, and a true minus."""
  return f'{round(x, 6) + 0.:.3g}'.replace('-', '\N{MINUS SIGN}')


def signed(x: float) -> str:
  """`plain` with a plus above zero."""
  text = plain(x)
  return '+' + text if x > 0 and text != '0' else text


def clean(text: Any) -> str:
  """One line of text without control, format and private characters: what is left is allowed in XML."""
  bad = '\N{REPLACEMENT CHARACTER}'
  return ''.join(' ' if c in '\t\n\r' else bad if unicodedata.category(c)[0] == 'C' else c for c in str(text)[:400])


def _room(text: str) -> float:
  """About how wide a text is, in pixels."""
  return sum(SIZE if unicodedata.east_asian_width(c) in 'WF' else .62 * SIZE for c in text)


def clipped(text: Any, room: float) -> str:
  """The cleaned text, as much of it as fits."""
  text = clean(text)
  if _room(text) <= room:
    return text
  while text and _room(text) > room - SIZE:
    text = text[:-1]
  return text + '\N{HORIZONTAL ELLIPSIS}'


# ---- trees -------------------------------------------------------------------------------------------------------------

def trees(steps: Sequence[Step], *, down: bool = False, x: float = 0., y: float = 0., widest: float = 180.) -> tuple[list, float, float]:
  """Boxes and the lines between them, each prompt from a dot.

  Args:
    steps: parents before children, prompts one after the other.
    down: from top to bottom.
    x, y: the upper left corner.
    widest: pixels that a box may have.

  Returns:
    (shapes, right edge, lower edge).
  """
  kids, first = [[] for _ in steps], {}
  depth, slot = [0] * len(steps), [0.] * len(steps)
  for i, s in enumerate(steps):
    (kids[s.parent] if s.parent >= 0 else first.setdefault(s.group, [])).append(i)
    depth[i] = depth[s.parent] + 1 if s.parent >= 0 else 0
  stack, free, begin = [i for roots in reversed(first.values()) for i in reversed(roots)], 0, {}
  while stack:                                    # ends of paths stand below (or beside) each other
    i = stack.pop()
    begin.setdefault(steps[i].group, free)
    slot[i], free = float(free), free + (not kids[i])
    stack += reversed(kids[i])
  for i in reversed(range(len(steps))):
    if kids[i]:
      slot[i] = (slot[kids[i][0]] + slot[kids[i][-1]]) / 2
  number, room = {g: k for k, g in enumerate(first)}, widest - 2 * PAD
  wide = [_room(f'{clean(s.head)}  {s.said}') + PAD for s in steps] + [_room(clean(t)) for s in steps for t in s.lines]
  figures = max([_room(signed(v)) for s in steps for _, v, _ in s.bars], default=0.)
  wide += [_room(clean(k)) + figures + 2 * HALF + 2 * PAD for s in steps for k, *_ in s.bars]
  w = min(max(wide, default=0.), room) + 2 * PAD
  h = 2 * PAD + LINE * max((len(s.lines) + len(s.bars) for s in steps), default=0) + SIZE
  caption = 16. if len(first) > 1 else 0.

  def place(group, slot, depth):
    k = number[group]
    if down:
      return x + slot * (w + 8) + k * 12, y + caption + 14 + depth * (h + 18)
    return x + 18 + depth * (w + 20), y + slot * (h + 6) + k * 4 + (k + 1) * caption
  paths, shapes = [], []
  for g, roots in first.items():
    a, b = place(g, (slot[roots[0]] + slot[roots[-1]]) / 2, 0)
    dot = (a + w / 2, y + caption + 3) if down else (x + 3, b + h / 2)
    shapes.append(Box(dot[0] - 3, dot[1] - 3, 6, 6, RULE, round=3))
    paths += [_link(dot, place(g, slot[i], 0), w, h, down) for i in roots]
    if caption:
      a, b = place(g, begin[g], 0)
      shapes.append(Text(a if down else x, y + SIZE if down else b - 5, f'prompt {g}', DIM))
  corner = [place(s.group, slot[i], depth[i]) for i, s in enumerate(steps)]
  for i, s in enumerate(steps):
    if s.parent >= 0:
      a, b = corner[s.parent]
      paths.append(_link((a + w / 2, b + h) if down else (a + w, b + h / 2), corner[i], w, h, down))
  boxes = [shape for s, (a, b) in zip(steps, corner, strict=True) for shape in _box(s, a, b, w, h, figures)]
  return [Lines(paths), *shapes, *boxes], max([a + w for a, _ in corner], default=x), max([b + h for _, b in corner], default=y)


def _link(start, corner, w, h, down):
  """From a point to the entry of a box, around two corners."""
  (a, b), (c, d) = start, corner
  if down:
    c, middle = c + w / 2, d - 9
    return (a, b), (a, middle), (c, middle), (c, d)
  d, middle = d + h / 2, c - 9
  return (a, b), (middle, b), (middle, d), (c, d)


def _box(s, x, y, w, h, figures):
  ink, room = PALE if s.pale else INK, w - 2 * PAD
  shapes = [Box(x, y, w, h, s.fill, PALE if s.pale else RULE, s.dash, 3)]
  at = y + PAD + SIZE - 1
  shapes.append(Text(x + PAD, at, clipped(s.head, room - _room(s.said)), ink))
  if s.said:
    shapes.append(Text(x + w - PAD, at, s.said, ink, 'end', True))
  for line in s.lines:
    at += LINE
    shapes.append(Text(x + PAD, at, clipped(line, room), PALE if s.pale else DIM))
  for name, value, share in s.bars:
    at += LINE
    middle = x + w - 2 * PAD - figures - HALF
    shapes += [Text(x + PAD, at, clipped(name, room - figures - 2 * HALF - 2 * PAD), PALE if s.pale else DIM),
               Text(x + w - PAD, at, signed(value), ink, 'end'),
               Box(middle - HALF - 1, at - 10, 2 * HALF + 2, LINE, '#ffffff')]
    if share:
      shapes.append(Box(middle if share > 0 else middle + HALF * share, at - 8, HALF * abs(share), 9, color(share, abs(share))))
    shapes.append(Box(middle - .5, at - 10, 1, LINE, RULE))
  return shapes


# ---- SVG and PNG -------------------------------------------------------------------------------------------------------

def _digits(x: float) -> str:
  return f'{x:.1f}'.removesuffix('.0')


def svg(shapes: Sequence, wide: float, high: float, label: str, *, inline: bool = False) -> str:
  """The shapes as SVG; `inline`: for a page, without a name space and a background."""
  d, text = _digits, lambda x: html.escape(clean(x))
  top = '' if inline else ' xmlns="http://www.w3.org/2000/svg"'
  out = [f'<svg{top} viewBox="0 0 {d(wide)} {d(high)}" width="{d(wide)}" height="{d(high)}" role="img" aria-label="{text(label)}" '
         f'font-family="system-ui, sans-serif" font-size="{SIZE}">']
  if not inline:
    out.append(f'<rect width="{d(wide)}" height="{d(high)}" fill="#ffffff"/>')
  for s in shapes:
    if isinstance(s, Lines):
      path = ''.join('M' + 'L'.join(f'{d(a)} {d(b)}' for a, b in p) for p in s.paths)
      out.append(f'<path d="{path}" fill="none" stroke="{PALE}"/>')
    elif isinstance(s, Box):
      more = (f' rx="{d(s.round)}"' if s.round else '') + (f' stroke="{s.stroke}"' if s.stroke != 'none' else '')
      more += f' stroke-dasharray="{" ".join(map(str, s.dash))}"' if s.dash else ''
      out.append(f'<rect x="{d(s.x)}" y="{d(s.y)}" width="{d(s.w)}" height="{d(s.h)}" fill="{s.fill}"{more}/>')
    else:
      more = (' text-anchor="end"' if s.anchor == 'end' else '') + (' font-weight="600"' if s.bold else '')
      out.append(f'<text x="{d(s.x)}" y="{d(s.y)}" fill="{s.fill}"{more}>{text(s.text)}</text>')
  return '\n'.join(out) + '</svg>'


def _png(shapes, wide, high, file):
  from matplotlib import patches, path
  from rlx.show import plots
  picture = plots.Picture((wide / 96, high / 96), layout=None)
  axes = picture.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, wide), ylim=(high, 0))
  axes.axis('off')
  for s in shapes:
    if isinstance(s, Lines):
      for p in s.paths:
        axes.add_patch(patches.PathPatch(path.Path(p), fc='none', ec=PALE, lw=.75))
    elif isinstance(s, Box):
      line = dict(ls=(0, s.dash) if s.dash else '-', lw=.75 if s.stroke != 'none' else 0)
      corners = f'round,pad=0,rounding_size={s.round}'
      axes.add_patch(patches.FancyBboxPatch((s.x, s.y), s.w, s.h, boxstyle=corners, fc=s.fill, ec=s.stroke, **line))
    else:
      axes.text(s.x, s.y, clean(s.text), fontsize=.75 * SIZE, color=s.fill, ha='right' if s.anchor == 'end' else 'left',
                fontweight='bold' if s.bold else 'normal', parse_math=False)
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')      # the font lacks a character: it is a box
    picture.savefig(file, format='png', dpi=min(192, 96 * 60_000 / max(wide, high)))
