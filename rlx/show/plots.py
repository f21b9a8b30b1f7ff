"""Curves as pictures, and `History`, the record of a run in a notebook.

`python -m rlx.show.plots WORKDIR` writes curves.png there, and success.png where something was evaluated.
"""

import fnmatch
import io
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import figure, ticker
from matplotlib.backends import backend_agg

from rlx.show import metrics

Records = Sequence[Mapping[str, Any]]

# title, patterns of the metrics in the panel, its y axis: 'share' [0, 1], 'stack' of areas, 'log' where it spans much, or ''
PANELS = (
    ('accuracy on held-out tasks (95 %)', ('eval/*/accuracy',), 'share'),
    ('success', ('success',), 'share'),
    ('reward', ('reward/*',), ''),
    ('explored', ('explored',), 'share'),
    ('zero-variance groups', ('zero_variance',), 'share'),
    ('valid, cut-off, failed', ('valid_action', 'cut_off', 'failed'), 'share'),
    ('turns', ('turns',), ''),
    ('loss', ('loss/*',), ''),
    ('entropy (nats a token)', ('entropy',), ''),
    ('clip share', ('clip_share',), ''),
    ('KL behaviour to now (nats a token)', ('kl',), ''),
    ('mean |ratio - 1|', ('ratio_gap',), ''),
    ('gradient norm', ('grad_norm',), 'log'),
    ('|logp gap| sampler to trainer', ('logp_gap',), 'log'),
    ('seconds by stage', ('seconds/*',), 'stack'),
    ('tokens/s', ('tokens_per_s/*',), ''),
    ('padding', ('padding',), 'share'),
    ('memory (MB)', ('memory_mb',), ''),
)
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#7f7f7f', '#000000')   # Okabe and Ito
SHADES = ('#f1f3f6', '#fdf5e8', '#eef6f0', '#f7eff5')
INK, PALE = '#2b2f36', '#8b919a'


class Picture(figure.Figure):
  """A matplotlib figure that a notebook shows by itself."""

  def __init__(self, size: tuple[float, float], layout: str | None = 'constrained'):
    super().__init__(figsize=size, dpi=110, layout=layout, facecolor='white')
    backend_agg.FigureCanvasAgg(self)

  def _repr_png_(self) -> bytes:
    return _png(self)


class History(NamedTuple):
  """The records of a run, in order: what `train.run` returns.

    history = History.load('runs/quickstart')
    history.plot(); history.column('success')
  """
  records: Records

  @classmethod
  def load(cls, workdir: metrics.Path) -> 'History':
    """The records of a run's folder (or of a metrics.jsonl)."""
    return cls(metrics.read(workdir))

  @property
  def names(self) -> list[str]:
    """Every metric that occurs."""
    return sorted({k for r in self.records for k in r})

  def column(self, name: str) -> np.ndarray:
    """`[records]` one metric over the run: f64, nan where a record does not have it; text (`phase`) as objects.

    Raises:
      KeyError: no record has it; the message lists what there is.
    """
    return column(self.records, name)

  def plot(self, *keys: str | Sequence[str], path: metrics.Path | None = None) -> Picture:
    """The default panels, or one panel a key (a name, a pattern such as 'reward/*', or a tuple of these)."""
    return curves(self.records, keys, path)


def column(records: Records, name: str) -> np.ndarray:
  """See `History.column`."""
  values = [r.get(name) for r in records]
  if not any(name in r for r in records):
    raise KeyError(f"no metric '{name}'; this run has {sorted({k for r in records for k in r})}")
  if any(isinstance(v, str) for v in values):
    return np.array(values, object)
  return np.array([math.nan if v is None else v for v in values], np.float64)


def numeric(records: Records) -> list[str]:
  """Metrics that have a number somewhere, sorted; without the step and the ends of intervals."""
  names = {k for r in records for k, v in r.items() if isinstance(v, (int, float))}
  return sorted(n for n in names if n != 'step' and not n.endswith(('_low', '_high')))


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
  """Those of the names that match one of the patterns, in the patterns' order."""
  return list(dict.fromkeys(n for p in patterns for n in names if fnmatch.fnmatchcase(n, p)))


def series(records: Records, name: str, x: str) -> tuple[np.ndarray, np.ndarray]:
  """(x, y) where both are numbers."""
  rows = [(r[x], r[name]) for r in records if r.get(x) is not None and r.get(name) is not None]
  return tuple(np.array(rows, np.float64).reshape(-1, 2).T)


def phases(records: Records) -> list[list[Mapping[str, Any]]]:
  """The records in runs of equal `phase`."""
  parts = []
  for r in records:
    if not parts or parts[-1][-1].get('phase') != r.get('phase'):
      parts.append([])
    parts[-1].append(r)
  return parts


# ---- figures ---------------------------------------------------------------------------------------------------------

def curves(records: Records, keys: Sequence[str | Sequence[str]] = (), path: metrics.Path | None = None) -> Picture:
  """Small panels over a run, phases shaded; panels without data are left out.

  The x axis is wall time in minutes where the records have `wall_s` (phases differ in pace), else the step.

  Args:
    records: as `metrics.read` gives them.
    keys: a panel each: a name, a pattern or a tuple of these; by default `PANELS`.
    path: PNG to write.

  Raises:
    ValueError: no record has a number for any panel.
  """
  panels = [(k, (k,), '') if isinstance(k, str) else (', '.join(k), tuple(k), '') for k in keys] or PANELS
  known = numeric(records)
  panels = [(title, names, kind) for title, patterns, kind in panels if (names := matching(known, patterns))]
  if not panels:
    raise ValueError(f"nothing to plot: {len(records)} records have none of {list(keys) or 'the default metrics'}")
  records, x = (_timed(records), 'minutes') if any('wall_s' in r for r in records) else (records, 'step')
  width = min(len(panels), 3)
  height = -(-len(panels) // width)
  size = 4.2 * width, 2.4 * height + .2
  picture = Picture(size, layout=None)      # constrained layout measures every label twice: over a second for 40 panels
  picture.subplots_adjust(left=.55 / size[0], right=1 - .15 / size[0], bottom=.45 / size[1], top=1 - .35 / size[1], wspace=.22, hspace=.42)
  for i, (title, names, kind) in enumerate(panels):
    axes = picture.add_subplot(height, width, i + 1)
    _shade(axes, records, x, named=i < width)
    (_stack if kind == 'stack' else _lines)(axes, records, names, x)
    _finish(axes, title, kind)
    if i >= len(panels) - width:
      axes.set_xlabel(x, color=PALE, fontsize=8)
  return _save(picture, path)


def success(records: Records, path: metrics.Path | None = None, *, title: str = '') -> Picture:
  """One figure for a README: accuracy with its 95 % interval and success while training, against wall minutes.

  Sampled evaluation (the highest temperature) is drawn for each split; phases are shaded.

  Raises:
    ValueError: no accuracy and no success beside `wall_s` in the records.
  """
  records, best = _timed(records), {}
  known = numeric(records)
  for key in matching(known, ('eval/*/accuracy',)):
    split, temperature = _split(key)
    best[split] = max(best.get(split, (-math.inf, '')), (temperature, key))
  if not best and 'success' not in known:
    raise ValueError(f'nothing to plot: {len(records)} records have no eval/*/accuracy or success beside wall_s')
  picture = Picture((7.6, 4.))
  axes = picture.add_subplot()
  _shade(axes, records, 'minutes', named=True)
  for (split, (_, key)), color in zip(sorted(best.items(), reverse=True), COLORS):
    x, y = _curve(axes, records, key, 'minutes', color, split.replace('_', ' '), lw=2.2, marker='o', ms=5, mec='white')
    axes.annotate(f'{y[-1]:.2f}', (x[-1], y[-1]), (9, 0), textcoords='offset points', color=color, fontsize=9,
                  va='center', fontweight='bold', annotation_clip=False)
  for key, label, style in (('success', 'success while training', '-'), ('explored', 'explored', (0, (4, 2)))):
    if key in known:
      _curve(axes, records, key, 'minutes', COLORS[6], label, ls=style, zorder=1.5)
  _finish(axes, title, 'share')
  axes.set_title(title, loc='left', fontsize=11, color=INK)
  axes.set_xlabel('minutes of wall time', fontsize=9, color=INK)
  axes.set_ylabel('success rate', fontsize=9, color=INK)
  axes.legend(fontsize=8.5, frameon=False, loc='lower right', labelcolor=INK)
  return _save(picture, path)


def smooth(y: np.ndarray, width: int = 9) -> np.ndarray:
  """`[n]` centred running mean; the window narrows to one towards both ends, so a curve starts where the run did."""
  at = np.arange(len(y))
  half = np.minimum(np.minimum(at, at[::-1]), width // 2)
  total = np.concatenate([[0.], np.cumsum(y)])
  return (total[at + half + 1] - total[at - half]) / (2 * half + 1)


# ---- parts of a figure -----------------------------------------------------------------------------------------------

def _timed(records):
  return [dict(r, minutes=r['wall_s'] / 60) for r in records if r.get('wall_s') is not None]


def _split(key):
  """'eval/<split>/<temperature>/accuracy' -> (split, temperature as a number)."""
  split, _, temperature = key.removeprefix('eval/').removesuffix('/accuracy').rpartition('/')
  try:
    return split, float(temperature)
  except ValueError:
    return temperature, 1.


def _curve(axes, records, name, x, color, label, **style):
  """A curve with its interval where it has one; many points are smoothed in each phase. Returns (x, y)."""
  low, high = (series(records, f'{name}_{end}', x) for end in ('low', 'high'))
  if low[0].size and low[0].size == high[0].size:
    axes.fill_between(*low, high[1], color=color, alpha=.13, lw=0)
  xs, ys = series(records, name, x)
  if len(xs) <= 12:
    axes.plot(xs, ys, color=color, label=label, **{'lw': 1.5, 'marker': 'o', 'ms': 3} | style)
    return xs, ys
  for part in phases(records):
    at, y = series(part, name, x)
    axes.plot(at, y, color=color, lw=.6, alpha=.35, zorder=style.get('zorder'))
    axes.plot(at, smooth(y), color=color, label=label if at.size else None, **{'lw': 1.5} | style)
    label = None if at.size else label
  return xs, ys


def _lines(axes, records, names, x):
  for name, color in zip(names, COLORS * len(names)):
    short = name.removeprefix('eval/').removesuffix('/accuracy') if name.startswith('eval/') else name.split('/', 1)[-1]
    _curve(axes, records, name, x, color, short)
  if len(names) > 1:
    axes.legend(fontsize=6.5, frameon=False, labelcolor=INK, ncols=2 if len(names) > 4 else 1)


def _stack(axes, records, names, x):
  names = sorted(names, key=lambda n: -series(records, n, x)[1].sum())
  for i, part in enumerate(phases(records)):
    rows = [r for r in part if any(r.get(n) is not None for n in names)]
    if rows:
      y = [smooth(np.array([r.get(n) or 0. for r in rows])) for n in names]
      axes.stackplot([r[x] for r in rows], *y, colors=(COLORS * len(names))[:len(names)], alpha=.85, lw=0,
                     labels=[n.split('/', 1)[-1] for n in names] if not axes.get_legend_handles_labels()[1] else ())
  axes.legend(fontsize=6.5, labelcolor=INK, ncols=2, loc='lower right', edgecolor='none', framealpha=.8)


def _shade(axes, records, x, named):
  """A background for each phase; one begins where the one before ends."""
  start = 0. if x == 'minutes' else min(r[x] for r in records)
  for part, shade in zip(phases(records), SHADES * len(records)):
    end = part[-1][x]
    axes.axvspan(start, end, color=shade, lw=0, zorder=0)
    if named and part[0].get('phase'):
      axes.annotate(part[0]['phase'], (start, 1), (5, -5), xycoords=('data', 'axes fraction'),
                    textcoords='offset points', va='top', fontsize=8.5, color=PALE)
    start = end
  axes.margins(x=.012)


def _finish(axes, title, kind):
  axes.set_title(title, loc='left', fontsize=9, color=INK)
  axes.grid(axis='y', color='#e3e6ea', lw=.6)
  axes.set_axisbelow(True)
  axes.tick_params(which='both', colors=PALE, labelsize=7.5, length=0)
  axes.spines[['top', 'right', 'left']].set_visible(False)
  axes.spines['bottom'].set_color('#c9ced6')
  y = np.concatenate([np.zeros(0), *(np.asarray(line.get_ydata(), np.float64) for line in axes.lines)])
  if kind == 'share':
    axes.set_ylim(-.02, 1.03)
  elif kind == 'log' and (y > 0).any() and y.max() > 30 * y[y > 0].min():
    axes.set_yscale('log')
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())
  elif y.size and not 1e-3 <= np.abs(y).max() < 1e4:
    axes.yaxis.set_major_formatter(ticker.EngFormatter(sep=''))


def _png(picture) -> bytes:
  out = io.BytesIO()
  picture.savefig(out, format='png')
  return out.getvalue()


def _save(picture, path):
  if path is not None:
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, format='png')
  return picture


def main(args: Sequence[str] | None = None):
  """Writes the pictures of a run's folder."""
  args = sys.argv[1:] if args is None else args
  if len(args) != 1:
    raise SystemExit('usage: python -m rlx.show.plots WORKDIR')
  workdir = pathlib.Path(args[0])
  records = metrics.read(workdir)
  curves(records, path=workdir / 'curves.png')
  print(workdir / 'curves.png')
  if matching(numeric(_timed(records)), ('eval/*/accuracy', 'success')):
    success(records, workdir / 'success.png', title=workdir.resolve().name)
    print(workdir / 'success.png')


if __name__ == '__main__':
  main()
