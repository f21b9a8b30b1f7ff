"""`sample`, `score`, `update` and `step` of rlx, alone or in turn with other trainers on the same weights."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from rlx.bench import sides, work
from rlx.bench.table import columns


FAR = 1e-2      # nats: scores in float32 that differ by more are not of the same model


class Comparison(NamedTuple):
  """Who took part, the results of each, and how far their scores are apart (None where the work is not scoring)."""
  results: list[sides.Result]
  apart: dict[str, float] | None


def compare(what: str, *, model: str = 'A', dtype: str = 'float32', repeats: int = 5, microbatch: int | None = None,
            lanes: int = 1, remat: str = 'none', peer_microbatch: int | None = None, peers: Sequence[tuple[str, str]] = (),
            exclusive: bool = False, size: work.Size = work.Size(), tell: Callable = lambda text: None) -> list[Comparison]:
  """Times one work.

  Args:
    what: one of `work.WORKS`.
    model: 'A', 'B' or a Hugging Face directory.
    dtype: of the computation, 'float32' or 'bfloat16'.
    repeats: repetitions that count.
    microbatch: rows of ours a backward pass; None: all.
    lanes: threads of our sampler (`sampler.lanes` of a config).
    remat: what our backward pass makes again ('none', 'dots', 'full'; see `models.transformer`).
    peer_microbatch: rows of theirs a pass; None: all.
    peers: (name, its Python); each is compared with ours in a run of its own.
    exclusive: never two processes in memory at once.
    size: how much work.
    tell: is told what goes on.

  Returns:
    A `Comparison` for each peer, ours first in it; one with ours alone where there is no peer.

  Raises:
    ValueError: a model or a Python that is not there, rows that do not divide, a side that died.
  """
  for rows in (microbatch, peer_microbatch):
    if rows is not None and (rows < 1 or size.rows % rows):
      raise ValueError(f'{rows} rows a microbatch do not divide the {size.rows} rows of the work.')
  if lanes < 1 or size.rows % lanes:
    raise ValueError(f'{lanes} lanes do not divide the {size.rows} rows of the work.')
  if repeats < 1:
    raise ValueError(f'--repeats is at least 1, not {repeats}.')
  path = work.model(model)
  job = work.job(what, path, size=size, dtype=dtype, microbatch=microbatch)
  theirs = [sides.peer(name, python, {**job, 'microbatch': peer_microbatch}) for name, python in peers]
  out = []
  for other in [[p] for p in theirs] or [[]]:
    pair = [sides.ours({**job, 'lanes': lanes, 'remat': remat}), *other]
    rounds, infos = sides.alternate(pair, repeats=repeats, exclusive=exclusive, tell=tell)
    found = sides.results(pair, rounds, infos, repeats)
    out.append(Comparison(found, _apart(*infos.values()) if what == 'score' and other else None))
  return out


def _apart(ours, theirs):
  """The largest difference of log-probabilities and of entropies, in nats."""
  return {k: float(np.abs(np.asarray(ours[k]) - np.asarray(theirs[k])).max()) for k in ('logp', 'entropy')}


def text(found: Sequence[Comparison], what: str, size: work.Size = work.Size()) -> str:
  """One table of all comparisons, and a line for each score."""
  count, kind = work.tokens(what, size)
  device = any(r.device_mb is not None for c in found for r in c.results)
  rows = [('side', 'median s', f'{kind}/s', 'peak MB', 'with start', *['device MB'] * device, 'others', 'ratio', 'of medians',
           'versions')]
  for c in found:
    for r in c.results:
      busy = '?' if np.isnan(r.others) else f'{r.others:.0%}' + ('!' if r.others > sides.BUSY else '')
      told = ' '.join(f'{k} {v}' for k, v in r.info['versions'].items())
      rows.append((r.name, f'{r.seconds:.4g}', f'{count / r.seconds:.0f}', f'{r.peak_mb:.0f}', f'{r.life_mb:.0f}',
                   *['' if r.device_mb is None else f'{r.device_mb:.0f}'] * device, busy,
                   '' if r.ratio is None else f'{r.ratio:.2f}', '' if r.ratio is None else f'{r.ratio_medians:.2f}',
                   ', '.join(filter(None, (told, r.info.get('note', ''))))))
  lines = [columns(rows, '<' + '>' * (len(rows[0]) - 2) + '<')]
  for c in found:
    if c.apart:
      name, note = c.results[1].name, c.results[1].info.get('scores', '') if c.apart['logp'] > FAR else ''
      lines.append(f"largest difference between rlx and {name}: log-probability {c.apart['logp']:.2g}, entropy "
                   f"{c.apart['entropy']:.2g} nats{' (' + note + ')' if note else ''}")
  if any(r.others > sides.BUSY for c in found for r in c.results):
    lines.append(f'! other processes used more than {sides.BUSY:.0%} of the machine: trust the ratios, and those only roughly')
  return '\n'.join(lines)
