"""The kept episodes of a run as one HTML page: `python -m rlx.show.report WORKDIR` writes WORKDIR/report.html.

The page loads nothing and runs no script. What models and environments wrote is escaped, and a content security policy
without scripts stands behind that.
"""

import collections
import json
import math
import os
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from rlx.show import drawing, metrics, plots

LIMIT = 2_000_000         # bytes of the page
TEXTS = 4000, 1000, 200   # characters shown of one text: the first with which a prompt takes at most an eighth of the page
THUMBS = (                # title, pattern
    ('accuracy', 'eval/*/accuracy'), ('success', 'success'), ('reward', 'reward/*'), ('explored', 'explored'),
    ('zero variance', 'zero_variance'), ('entropy', 'entropy'), ('KL', 'kl'), ('clip share', 'clip_share'),
    ('gradient norm', 'grad_norm'), ('loss', 'loss/*'), ('padding', 'padding'), ('seconds by stage', 'seconds/*'))
BOXES = 200               # a prompt of more steps is not drawn
MARKS = {0: '', 1: '', 2: 'cut off', 3: 'failed'}
VERDICTS = {'right': '\u2713 right', 'wrong': '\u2717 wrong', 'left': '\u2013 abandoned'}


# ---- data ------------------------------------------------------------------------------------------------------------

def episodes(group: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The paths of a line of episodes.jsonl, from a first step to one where something ended or was left.

  Args:
    group: a line.

  Returns:
    For each: steps (indices along the path), end, tokens, returns (channel -> sum over the path) and verdict: 'right',
    'wrong' (failed ones too) or 'left' (abandoned by the search, so no episode). The environment's metric 'correct' decides,
    else whether the return on 'task' (or the first channel there is) is above 0.5.
  """
  parent, end, steps = group['parent'], group['end'], group['steps']
  inner = {p for p in parent if p >= 0}
  found = []
  for leaf in (i for i in range(len(parent)) if end[i] or i not in inner):
    path = [leaf]
    while parent[path[-1]] >= 0:
      path.append(parent[path[-1]])
    path.reverse()
    returns = {}
    for i in path:
      for channel, r in steps[i]['reward'].items():
        returns[channel] = returns.get(channel, 0.) + (r or 0.)
    said = [steps[i]['metrics']['correct'] for i in path if 'correct' in steps[i]['metrics']]
    right = (said[-1] if said else returns.get('task', next(iter(returns.values()), 0.))) > .5
    verdict = 'left' if not end[leaf] else 'right' if end[leaf] < 3 and right else 'wrong'
    tokens = sum(len(steps[i]['ids']) for i in path)
    found.append(dict(steps=path, end=end[leaf], tokens=tokens, returns=returns, verdict=verdict))
  return found


def spread(n: int) -> list[int]:
  """0 .. n - 1, the last and the first before the middle and so on: any beginning of it covers the whole evenly."""
  order, gap = [n - 1, 0] if n > 1 else [0][:n], n - 1
  while gap > 1:
    gap = -(-gap // 2)
    order += range(gap, n - 1, gap)
  order += range(n)
  return list(dict.fromkeys(order))


def _offsets(path) -> dict[int, list[int]]:
  """Step -> where its lines begin in episodes.jsonl, without parsing them."""
  found = {}
  with open(path, 'rb') as f:
    at = 0
    for line in f:
      step = re.match(rb'\{"step":(-?\d+),', line)
      if step and line.endswith(b'\n'):
        found.setdefault(int(step[1]), []).append(at)
      at += len(line)
  return found


# ---- pieces ----------------------------------------------------------------------------------------------------------

def thumbnail(title: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
  """A curve as SVG points in a box of 200 x 48: title, least, most, and for each curve its name, points and last value."""
  every = [np.concatenate(c) for c in zip(*curves.values())]
  (x0, x1), (y0, y1) = ((a.min(), a.max()) for a in every)
  lines = []
  for name, (x, y) in curves.items():
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), 150)).round().astype(int))
    px = 2 + 196 * (x[keep] - x0) / ((x1 - x0) or 1)
    py = 46 - 44 * (plots.smooth(y, 5)[keep] - y0) / ((y1 - y0) or 1)
    lines.append(dict(name=name, points=' '.join(f'{a:.1f},{b:.1f}' for a, b in zip(px, py)), last=figure(y[-1])))
  return dict(title=title, least=figure(y0), most=figure(y1), lines=lines)


def thumbnails(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """One for each entry of `THUMBS` that the records have numbers for; at most six curves each."""
  found, known, timed = [], plots.numeric(records), all('wall_s' in r for r in records)
  for title, pattern in THUMBS:
    curves = {}
    for name in plots.matching(known, (pattern,))[:6]:
      short_name = name.removeprefix('eval/').removesuffix('/accuracy').removeprefix(pattern.removesuffix('*'))
      curves[short_name] = plots.series(records, name, 'wall_s' if timed else 'step')
    if curves:
      found.append(thumbnail(title, curves))
  return found


def figure(x: Any) -> str:
  """Three digits and a true minus; '-' where there is no number."""
  if not isinstance(x, (int, float)) or not math.isfinite(x):
    return '-'
  return f'{x:.3g}'.replace('-', '\N{MINUS SIGN}')


def tint(x: float | None) -> str:
  """Style of an advantage: blue above zero, orange below, stronger with its size (full at 2)."""
  if not x:
    return ''
  color, strength = 'plus' if x > 0 else 'minus', 15 + 60 * min(abs(x) / 2, 1)
  return f'background: color-mix(in srgb, var(--{color}) {strength:.0f}%, transparent)'


def tree(group: Mapping[str, Any], found: Sequence[Mapping[str, Any]], room: int) -> str:
  """SVG of a prompt whose episodes share steps: a box a step, coloured by the advantage of the first track (full at 2, as `tint`).

  '' where nothing is shared, and for more than `BOXES` steps or `room` characters.
  """
  parent = group['parent']
  inner = [p for p in parent if p >= 0]
  if len(set(inner)) == len(inner) or len(parent) > BOXES:
    return ''
  mark = {e['steps'][-1]: ' ' + VERDICTS[e['verdict']][0] for e in found}
  kept = {i for e in found if e['verdict'] != 'left' and e['end'] < 3 for i in e['steps']}
  steps = []
  for i, (p, s) in enumerate(zip(parent, group['steps'], strict=True)):
    a = next(iter(s['advantage'].values()), None)
    fill = '#ffffff' if a is None else drawing.color(a, 2.)
    steps.append(drawing.Step(p, 0, f'{i}{mark.get(i, "")}', drawing.signed(a) if a else '', fill, pale=i not in kept))
  shapes, right, bottom = drawing.trees(steps, x=4., y=4.)
  svg = drawing.svg(shapes, right + 4, bottom + 4, 'the tree of steps', inline=True)
  return svg if len(svg) <= room else ''


def short(text: str, most: int) -> str:
  """At most `most` characters, and how many are missing."""
  return text if len(text) <= most else f'{text[:most]} \N{HORIZONTAL ELLIPSIS} {len(text) - most:,} characters more'


# ---- the page --------------------------------------------------------------------------------------------------------

CSS = """
:root { color-scheme: light dark; --bg: #fff; --fg: #22262c; --dim: #68707c; --line: #e1e5ea; --box: #f6f7f9;
  --good: #1a7f37; --bad: #c0362c; --plus: #2f81f7; --minus: #e8772e; --c0: #0072b2; --c1: #d55e00; --c2: #009e73;
  --c3: #cc79a7; --c4: #b8860b; --c5: #56b4e9 }
@media (prefers-color-scheme: dark) { :root { --bg: #14171c; --fg: #dde2e9; --dim: #8d96a3; --line: #2c323b; --box: #1c2129;
  --good: #4cc26a; --bad: #ff7b6f; --plus: #4c94ff; --minus: #f08a45; --c0: #58a6e8; --c1: #f0803c; --c2: #3fc79b } }
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--fg); font: 14px/1.45 system-ui, sans-serif }
header, main { padding: 0 20px } h1 { font-size: 20px; margin: 16px 0 2px } h2 { font-size: 15px; margin: 26px 0 8px }
.dim, .meta, .thumb small { color: var(--dim) } .dim { margin: 0 0 12px }
.thumbs { display: grid; grid-template-columns: repeat(auto-fill, minmax(215px, 1fr)); gap: 10px; align-items: start }
.thumb { border: 1px solid var(--line); border-radius: 6px; padding: 6px 9px; min-width: 0 }
.thumb b { font-size: 12px } .thumb small { float: right; font-size: 11px }
.thumb svg { width: 100%; height: 52px; display: block }
.thumb polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke }
.thumb span { display: block; font-size: 11px; overflow-wrap: anywhere }
.filter { position: sticky; top: 0; z-index: 1; background: var(--bg); border-bottom: 1px solid var(--line);
  padding: 9px 20px; margin-top: 14px }
.filter label { margin-right: 14px; cursor: pointer }
.page { display: grid; grid-template-columns: 170px minmax(0, 1fr) }
nav { position: sticky; top: 40px; align-self: start; max-height: calc(100vh - 40px); overflow: auto; font-size: 12px;
  padding: 14px 6px 20px 20px }
nav a { display: block; color: var(--fg); text-decoration: none; padding: 1px 0 } nav a:hover { text-decoration: underline }
:is(b, nav span).right { color: var(--good) } :is(b, nav span).wrong { color: var(--bad) }
.group { border: 1px solid var(--line); border-radius: 8px; margin: 0 0 12px; padding: 8px 12px }
.group > p { margin: 2px 0 6px } .prompt { font-weight: 600; overflow-wrap: anywhere }
summary { cursor: pointer; padding: 3px 0 } details details { margin-left: 10px }
.step { border-left: 3px solid var(--line); margin: 8px 0 8px 10px; padding-left: 10px }
pre { margin: 3px 0; padding: 5px 8px; border-radius: 5px; white-space: pre-wrap; overflow-wrap: anywhere;
  max-height: 340px; overflow: auto; font: 12px/1.45 ui-monospace, monospace; unicode-bidi: isolate }
.obs { background: var(--box); color: var(--dim) } .act { border: 1px solid var(--line) }
.meta { font-size: 12px } .tree { overflow-x: auto; margin: 0 0 6px }
.chip { border-radius: 4px; padding: 0 5px; margin-right: 4px; color: var(--fg); border: 1px solid var(--line); white-space: nowrap }
.mark { color: var(--bad); font-weight: 600 }
body:has(#f-right:checked) :is(.episode:not(.right), .group:not(:has(.right))),
body:has(#f-wrong:checked) :is(.episode:not(.wrong), .group:not(:has(.wrong))),
body:has(#f-ended:checked) :is(.episode:not(.marked), .group:not(:has(.marked))) { display: none }
@media (max-width: 760px) { .page { display: block } nav { display: none } }
"""

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>{{ css | safe }}</style></head><body>
<header><h1>{{ title }}</h1><p class="dim">{{ about }}</p>
<div class="thumbs">{% for t in thumbs %}
<div class="thumb"><small>{{ t.least }} to {{ t.most }}</small><b>{{ t.title }}</b>
<svg viewBox="0 0 200 48" preserveAspectRatio="none" role="img" aria-label="{{ t.title }}">
{%- for l in t.lines %}<polyline points="{{ l.points }}" stroke="var(--c{{ loop.index0 }})"/>{% endfor %}</svg>
{%- for l in t.lines %}<span style="color: var(--c{{ loop.index0 }})">{{ l.name }} {{ l.last }}</span>{% endfor %}</div>{% endfor %}
</div></header>
<div class="filter">Episodes:
<label><input type="radio" name="f" id="f-all" checked> all</label>
<label><input type="radio" name="f" id="f-right"> right</label>
<label><input type="radio" name="f" id="f-wrong"> wrong</label>
<label><input type="radio" name="f" id="f-ended"> cut off, failed or abandoned</label></div>
<div class="page"><nav>{% for step, right, all in index %}
<a href="#s{{ step }}">step {{ step }}
<span class="{{ 'right' if 2 * right >= all else 'wrong' }}">{{ right }}/{{ all }}</span></a>{% endfor %}
</nav><main>
"""

GROUP = """<section class="group"><p class="prompt">{{ short(g.steps[0].obs if g.steps else '', most) }}</p>
<p class="meta">{{ g.prompt }}{% if g.task is not none %} &middot; {{ short(g.task | string, most) }}{% endif %}</p>
{%- if tree %}<div class="tree">{{ tree | safe }}</div>{% endif %}
{%- for e in episodes %}
<details class="episode {{ e.verdict }}{{ ' marked' if e.end != 1 }}"><summary>
<b class="{{ e.verdict }}">{{ verdicts[e.verdict] }}</b>
{%- if marks[e.end] %} <span class="mark">{{ marks[e.end] }}</span>{% endif %}
<span class="meta">{% for c, r in e.returns.items() %}<span class="chip">{{ c }} {{ figure(r) }}</span>{% endfor -%}
{{ e.steps | length }} steps, {{ e.tokens }} tokens</span></summary>
{%- for i in e.steps %}{% set s = g.steps[i] %}
<div class="step"><pre class="obs" dir="auto">{{ short(s.obs, most) }}</pre>
<pre class="act" dir="auto">{{ short(s.text, most) }}</pre><div class="meta">
{%- for c, r in s.reward.items() %}<span class="chip">{{ c }} {{ figure(r) }}</span>{% endfor -%}
{%- for t, a in s.advantage.items() %}<span class="chip" style="{{ tint(a) }}">advantage {{ t }} {{ figure(a) }}</span>{% endfor -%}
step {{ i }}{% if shared[i] > 1 %}, shared by {{ shared[i] }}{% endif -%}
{%- if s.by != 'policy' %}, by {{ s.by }}{% endif %}, {{ s.ids | length }} tokens
{%- if 0 in s.sampled %}, {{ s.sampled.count(0) }} not sampled{% endif %}, logp {{ figure(s.logp) }}, entropy {{ figure(s.entropy) }}
{%- for k, v in s.label.items() %}, {{ k }} {{ short(v | string, most) }}{% endfor %}
{%- for k, v in s.value.items() %}, {{ k }} {{ figure(v) }}{% endfor %}</div></div>
{%- endfor %}</details>{% endfor %}</section>
"""


def page(workdir: metrics.Path, *, limit: int = LIMIT) -> str:
  """The page as text: curves, then the episodes by step, as many prompts as fit, spread evenly over the run.

  Args:
    workdir: folder with metrics.jsonl and episodes.jsonl; one of them may be missing.
    limit: bytes of the page.

  Raises:
    FileNotFoundError: neither file is there.
  """
  workdir = pathlib.Path(workdir)
  records, path = workdir / metrics.METRICS, workdir / metrics.EPISODES
  if not records.is_file() and not path.is_file():
    raise FileNotFoundError(f"no {metrics.METRICS} or {metrics.EPISODES} in '{workdir}': is it the folder of a run?")
  env = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  env.globals.update(figure=figure, tint=tint, short=short, marks=MARKS, verdicts=VERDICTS)
  head, group = env.from_string(HEAD), env.from_string(GROUP)
  thumbs = thumbnails(metrics.read(records)) if records.is_file() else []
  offsets = _offsets(path) if path.is_file() else {}
  steps, parts = sorted(offsets), {}
  total = sum(map(len, offsets.values()))

  def whole(parts):
    shown = sum(len(p) for p in parts.values())
    index = [(s, sum(r for _, r, _ in p), sum(n for *_, n in p)) for s, p in sorted(parts.items())]
    about = f'{shown} of {total} kept prompts' + ('' if shown == total else f'; the others are in {metrics.EPISODES}')
    top = head.render(title=workdir.resolve().name, about=about, thumbs=thumbs, css=CSS, index=index)
    body = (f'<h2 id="s{s}">step {s}</h2>\n' + ''.join(html for html, _, _ in p) for s, p in sorted(parts.items()))
    return top + ''.join(body) + '</main></div></body></html>\n'

  size = len(whole({}).encode(errors='replace')) + 1000
  with open(path if offsets else os.devnull, 'rb') as f:
    for nth in range(max(map(len, offsets.values()), default=0)):
      for i in spread(len(steps)):
        if nth < len(offsets[steps[i]]):
          f.seek(offsets[steps[i]][nth])
          html, good, count = _section(group, json.loads(f.readline()), limit // 8)
          more = len(html.encode(errors='replace')) + 200   # and its entry in the index
          if size + more <= limit:
            size += more
            parts.setdefault(steps[i], []).append((html, good, count))
  return whole(parts)


def _section(template, group, room):
  """(html, right episodes, episodes) of one prompt."""
  found = episodes(group)
  shared = collections.Counter(i for e in found for i in e['steps'])
  verdicts, drawn = [e['verdict'] for e in found], tree(group, found, room // 4)
  for most in TEXTS:
    html = template.render(g=group, episodes=found, shared=shared, tree=drawn, most=most)
    if len(html) <= room:
      break
  return html, verdicts.count('right'), len(found) - verdicts.count('left')


def write(workdir: metrics.Path, *, limit: int = LIMIT) -> pathlib.Path:
  """Writes workdir/report.html and returns its path."""
  path = pathlib.Path(workdir) / 'report.html'
  path.write_bytes(page(workdir, limit=limit).encode(errors='replace'))
  return path


def main(args: Sequence[str] | None = None):
  """Writes the page of a run's folder."""
  args = sys.argv[1:] if args is None else args
  if len(args) != 1:
    raise SystemExit('usage: python -m rlx.show.report WORKDIR')
  try:
    print(write(args[0]))
  except OSError as e:
    raise SystemExit(str(e)) from None


if __name__ == '__main__':
  main()
