"""What the terminal says while a run goes on, and its last line, which is for machines."""

import collections
import contextlib
import functools
import math
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import tqdm

QUIET_S = 10.   # where nobody watches a terminal: seconds between lines
WINDOW = 20     # steps whose pace the rest is reckoned by


def _never_raises(method):
  """A closed or broken terminal ends the bar, never the run."""
  @functools.wraps(method)
  def safe(self, *args, **kw):
    if self.on:
      try:
        method(self, *args, **kw)
      except Exception:  # pylint: disable=broad-except
        self.on = False
        if self.bar is not None:
          self.bar.disable = True   # else it tries once more when it is collected
  return safe


class Progress:
  """A bar over the steps of all phases, with the time left, success rate and tokens a second.

    with Progress('quickstart', (('warm', 900), ('rl', 80))) as bar:
      bar.update(record)                          # once a step
      bar.say('rl: held_out_questions 0.82')      # a line above the bar

  Where `file` is no terminal it prints a line at most every 10 s instead. The time left is that of this phase at the pace of
  its last steps (its first one, which compiles, left out): phases differ in pace, so before the last one it counts to the
  next. Nothing in here raises.

  Args:
    name: of the run.
    phases: (name, steps) in order.
    done: steps done before (a resumed run).
    file: where to, by default stderr.
    clock: seconds.
  """

  def __init__(self, name: str, phases: Sequence[tuple[str, int]], *, done: int = 0, file: TextIO | None = None,
               clock: Callable[[], float] = time.monotonic):
    self.name, self.phases, self.done, self.clock = name, tuple(phases), done, clock
    self.file = sys.stderr if file is None else file
    self.total = sum(steps for _, steps in self.phases)
    self.on, self.bar, self.last = True, None, -math.inf
    self.pace, self.then, self.where = collections.deque(maxlen=WINDOW), clock(), -1
    self._open()

  @_never_raises
  def _open(self):
    if self.file.isatty():
      self.bar = tqdm.tqdm(total=self.total, initial=self.done, file=self.file, dynamic_ncols=True, mininterval=0.1,
                           miniters=1, bar_format='{desc} |{bar:24}| {percentage:3.0f}% {elapsed}{postfix}')
      self.bar.set_description_str(self.name)

  @_never_raises
  def update(self, record: Mapping[str, Any]):
    """One more step is done; `record` holds its metrics."""
    self.done += 1
    phase, at, steps = self._phase()
    now = self.clock()
    if phase != self.where:
      self.where = phase
      self.pace.clear()
    else:
      self.pace.append(now - self.then)
    self.then = now
    desc = f'{self.name} {self.phases[phase][0]} {at}/{steps}'
    parts = [self._left(phase, steps - at), *_figures(record)]
    if self.bar is not None:
      self.bar.set_description_str(desc, refresh=False)
      self.bar.set_postfix_str(', '.join(filter(None, parts)), refresh=False)
      self.bar.update()
    elif now - self.last >= QUIET_S:
      self.last = now
      print(', '.join(filter(None, [desc, *parts])), file=self.file, flush=True)

  def _phase(self) -> tuple[int, int, int]:
    """(index of the phase, steps of it that are done, its steps); what comes after the end belongs to the last."""
    at = self.done
    for i, (_, steps) in enumerate(self.phases):
      if at <= steps:
        break
      at -= steps
    else:
      i, at = len(self.phases) - 1, at + steps
    return i, at, steps

  def _left(self, phase: int, steps: int) -> str:
    if not self.pace:
      return ''
    left = clock_text(max(steps, 0) * sum(self.pace) / len(self.pace))
    return f'{self.phases[phase + 1][0]} in {left}' if phase + 1 < len(self.phases) else f'eta {left}'

  def say(self, text: str):
    """Prints a line on stdout, above the bar."""
    with contextlib.suppress(Exception):
      if self.on and self.bar is not None:
        self.bar.write(text, file=sys.stdout)
        sys.stdout.flush()
      else:
        print(text, flush=True)

  @_never_raises
  def close(self):
    if self.bar is not None:
      self.bar.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _figures(record):
  """The short end of the line: success, and tokens a second of sampling or else of the update."""
  rate = record.get('tokens_per_s/sample') or record.get('tokens_per_s/update')
  success = record.get('success')
  if success is not None:
    yield f'success {success:.2f}'
  if rate:
    yield f'{rate / 1000:.1f}k tok/s' if rate >= 1000 else f'{rate:.0f} tok/s'


def clock_text(seconds: float) -> str:
  """75 -> '1:15', 3675 -> '1:01:15'."""
  minutes, s = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{s:02d}' if hours else f'{minutes}:{s:02d}'


# ---- the last line ---------------------------------------------------------------------------------------------------

def summary_line(name: str, values: Mapping[str, Any]) -> str:
  """The run's last line: `quickstart: warm_start=0.36 held_out_questions=0.90 wall_s=131 peak_mb=1010`.

  Floats have two decimals, none from 100 on, and two digits below 0.1; ints and text stand as they are.

  Raises:
    ValueError: a name, key or text that would not read back (empty, white space, '=').
  """
  for word in (name, *values, *(v for v in values.values() if isinstance(v, str))):
    if not re.fullmatch(r'[^\s=]+', word):
      raise ValueError(f"'{word}' cannot stand in a summary line: it is empty or has white space or '=' in it")
  return ' '.join([f'{name}:', *(f'{k}={_figure(v)}' for k, v in values.items())])


def _figure(v) -> str:
  if isinstance(v, (str, int)):
    return str(int(v) if isinstance(v, bool) else v)
  v = float(v)
  if not math.isfinite(v) or abs(v) >= 100:
    return f'{v:.0f}'
  return f'{v:.2f}' if v == 0 or abs(v) >= 0.1 else f'{v:.2g}'


def parse_summary(line: str) -> tuple[str, dict[str, float | str]] | None:
  """(name, values) of a `summary_line`, None where the line is another one."""
  found = re.fullmatch(r'([^\s=]+):((?: [^\s=]+=[^\s=]+)+)', line.strip())
  if not found:
    return None
  return found[1], {k: _number(v) for k, v in (pair.split('=') for pair in found[2].split())}


def _number(text):
  try:
    return float(text)
  except ValueError:
    return text
