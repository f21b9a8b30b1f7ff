"""What a bench prints: the machine, and lines in columns. Timing of a function inside this process."""

import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np


class Line(NamedTuple):
  """One row of the table; `target` is the most that `value` may be, `note` says why there is no value."""
  name: str
  size: int
  value: float | None
  unit: str
  target: float | None = None
  note: str = ''

  @property
  def verdict(self) -> str:
    return '' if self.target is None or self.value is None else 'ok' if self.value <= self.target else 'missed'


def machine(device: str | None = None) -> dict:
  """What a figure depends on: processor, device (by default this process's), versions, and how busy the machine was."""
  info = pathlib.Path('/proc/cpuinfo')
  model = re.search(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else None
  return dict(
      cpu=model[1] if model else platform.processor() or platform.machine(),
      cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
      device=device or f'{len(jax.devices())} x {jax.devices()[0].device_kind}', load=round(os.getloadavg()[0], 2),
      python=platform.python_version(), jax=jax.__version__, numpy=np.__version__)


def seconds(run: Callable, repeats: int, prepare: Callable = tuple) -> float:
  """Median wall time of `run(*prepare())`; what `prepare` does is not timed."""
  times = []
  for _ in range(repeats):
    args = prepare()
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def compiled(fn: Callable, *args) -> tuple[Callable, float, int]:
  """(executable, seconds to trace and compile, calls to the host in its HLO)."""
  start = time.perf_counter()
  run = jax.jit(fn).lower(*args).compile()
  took = time.perf_counter() - start
  host = r'custom_call_target="[^"]*callback|\b(?:outfeed|infeed|send|recv)\('
  return run, took, len(re.findall(host, run.as_text()))


def table(lines: Sequence[Line]) -> str:
  """The lines under a header, in columns."""
  rows = []
  for x in lines:
    most = '' if x.target is None else f'{x.target:.4g}'
    rows.append((x.name, str(x.size), 'n/a' if x.value is None else f'{x.value:.4g}', x.unit, most, x.verdict))
  return columns([('bench', 'size', 'median', '', 'at most', ''), *rows], '<>><><')


def columns(rows: Sequence[Sequence[str]], sides: str) -> str:
  """Rows of texts as lines, each column as wide as its widest; `sides`: one of < and > a column."""
  wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return '\n'.join('  '.join(f'{c:{side}{w}}' for c, side, w in zip(row, sides, wide, strict=True)).rstrip() for row in rows)
