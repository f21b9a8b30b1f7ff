"""What a run leaves behind: metrics.jsonl, TensorBoard events and episodes.jsonl, cut back to the checkpoint on resume.

Each line and each event is one unbuffered write, so `kill -9` loses at most the one being written. `Writer` and `Episodes`
hold open files: `cut` comes before them.
"""

import contextlib
import json
import math
import os
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tensorboardX import record_writer
from tensorboardX.proto import event_pb2, summary_pb2

from rlx.types import Group, Node

METRICS, EPISODES, EVENTS = 'metrics.jsonl', 'episodes.jsonl', 'events.out.tfevents.'
Path = str | os.PathLike


# ---- files -----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def _named(path: Path):
  """The operating system's errors, with the path and what to do."""
  try:
    yield
  except OSError as e:
    why = e.strerror or str(e)
    raise OSError(e.errno, f"cannot write '{path}' ({why}): make room or rights there, or choose another workdir") from e


class _Log:
  """A file that only grows, by whole records."""

  def __init__(self, path: pathlib.Path, mode: str = 'ab'):
    self.path = path
    with _named(path):
      path.parent.mkdir(parents=True, exist_ok=True)
      self.file = open(path, mode, buffering=0)

  def append(self, data: bytes):
    with _named(self.path):
      while data:   # a full disk takes a part first and fails at the rest
        data = data[self.file.write(data):]

  def close(self):
    self.file.close()


class _Lines(_Log):
  """A JSON-lines file, from the end of its last whole line on."""

  def __init__(self, path: pathlib.Path):
    with _named(path):
      if path.is_file():
        os.truncate(path, _whole(path))
    super().__init__(path)

  def add(self, record: Mapping[str, Any]):
    self.append(json.dumps(record, allow_nan=False, separators=(',', ':')).encode() + b'\n')


def _whole(path: pathlib.Path) -> int:
  """Bytes up to the end of the last whole line."""
  with open(path, 'rb') as f:
    end = f.seek(0, os.SEEK_END)
    while end:
      start = max(end - 65536, 0)
      f.seek(start)
      at = f.read(end - start).rfind(b'\n')
      if at >= 0:
        return start + at + 1
      end = start
  return 0


def _finite(x: float) -> float | None:
  return x if math.isfinite(x) else None


# ---- metrics ---------------------------------------------------------------------------------------------------------

class Writer:
  """Metrics of a run: one line a record in workdir/metrics.jsonl, and the same numbers as TensorBoard events.

    with metrics.Writer(workdir) as writer:
      writer.write(step, dict(phase='rl', wall_s=12.5, reward=0.3))

  A nan or an infinity is written as null, and `non_finite` counts those of the record; a None is left out.

  Args:
    workdir: folder of the run; made if it is not there.
    events: TensorBoard events too (`tensorboard --logdir workdir`).

  Raises:
    OSError: the folder cannot be written or the disk is full; the message names the path.
  """

  def __init__(self, workdir: Path, *, events: bool = True):
    self._lines = _Lines(pathlib.Path(workdir) / METRICS)
    self._events = _Events(pathlib.Path(workdir)) if events else None

  def write(self, step: int, record: Mapping[str, Any]) -> dict[str, Any]:
    """Appends one record and returns it as `read` will: step first, then strings, ints and floats.

    Raises:
      TypeError: a value that is neither text nor one number.
    """
    line = {'step': int(step)} | {k: _scalar(k, v) for k, v in record.items() if k != 'step' and v is not None}
    bad = sum(v is None for v in line.values())
    if bad:
      line['non_finite'] = bad
    self._lines.add(line)
    if self._events:
      self._events.add(line)
    return line

  def close(self):
    self._lines.close()
    if self._events:
      self._events.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _scalar(key: str, value: Any) -> str | int | float | None:
  if isinstance(value, str):
    return value
  if np.ndim(value) or np.iscomplexobj(value):
    raise TypeError(f"metric '{key}' is not one number: {type(value).__name__} of shape {np.shape(value)}")
  value = np.asarray(value)
  if value.dtype == object:
    raise TypeError(f"metric '{key}' is neither text nor one number: {value.item()!r}")
  return int(value) if value.dtype.kind in 'biu' else _finite(float(value))


def read(path: Path) -> list[dict[str, Any]]:
  """The records of a JSON-lines file (or of the metrics.jsonl of a folder); a half-written last line is left out.

  Raises:
    FileNotFoundError: no such file.
    ValueError: a line that is no JSON; the message names the file and the line.
  """
  path = pathlib.Path(path)
  path = path / METRICS if path.is_dir() else path
  records = []
  with open(path, 'rb') as f:
    for n, line in enumerate(f, 1):
      if line.endswith(b'\n'):
        try:
          records.append(json.loads(line))
        except ValueError as e:
          raise ValueError(f'{path}:{n} is no JSON ({e})') from None
  return records


# ---- TensorBoard events ----------------------------------------------------------------------------------------------

class _Events(_Log):
  """An event file: TFRecords of Event protocol buffers, one a step. Each start of a run gets a file of its own.

  tensorboardX's own writer passes events through a queue and a thread; what is in them is lost when the process is killed.
  """

  def __init__(self, workdir: pathlib.Path):
    last = max((int(p.name.split('.')[3]) for p in _event_files(workdir)), default=0)
    stamp = max(int(time.time()), last + 1)   # TensorBoard reads files by name, and two starts may share a second
    super().__init__(workdir / f'{EVENTS}{stamp:010d}.{socket.gethostname()}', 'xb')
    self.append(_framed(event_pb2.Event(wall_time=time.time(), file_version='brain.Event:2')))
    self._started = False

  def add(self, line: Mapping[str, Any]):
    now, step = time.time(), line['step']
    data = b''
    if not self._started:   # a TensorBoard that is watching forgets what a resumed run does again
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      data, self._started = _framed(event_pb2.Event(wall_time=now, step=step, session_log=start)), True
    values = [summary_pb2.Summary.Value(tag=k, simple_value=v)
              for k, v in line.items() if isinstance(v, (int, float)) and k != 'step']
    summary = summary_pb2.Summary(value=values)
    self.append(data + _framed(event_pb2.Event(wall_time=now, step=step, summary=summary)))


def _event_files(workdir: pathlib.Path) -> list[pathlib.Path]:
  return sorted(p for p in workdir.glob(EVENTS + '*') if p.name.split('.')[3].isdecimal())


def _framed(event) -> bytes:
  data = event.SerializeToString()
  head = struct.pack('<Q', len(data))
  crc = lambda b: struct.pack('<I', record_writer.masked_crc32c(b))
  return head + crc(head) + data + crc(data)


def _events(f) -> Iterator[tuple[bytes, Any]]:
  """(record, event) of an open event file, up to the first that is not whole."""
  while len(head := f.read(12)) == 12:
    size, crc = struct.unpack('<QI', head)
    if crc != record_writer.masked_crc32c(head[:8]):
      return
    body = f.read(size + 4)
    if len(body) < size + 4:
      return
    yield head + body, event_pb2.Event.FromString(body[:-4])


# ---- resume ----------------------------------------------------------------------------------------------------------

def cut(workdir: Path, step: int):
  """Cuts metrics, episodes and events back to what was written at steps <= `step` (-1: nothing stays).

  Half-written records go too. A file is replaced by one rename, or left alone where nothing goes, so being killed in here
  leaves each file either as it was or cut; calling again finishes the work.

  Args:
    workdir: folder of the run; files that are not there are no error.
    step: the last step that stays: that of the last record written before the checkpoint.

  Raises:
    OSError: a file cannot be rewritten; the message names its path.
  """
  workdir = pathlib.Path(workdir)
  for path in (workdir / METRICS, workdir / EPISODES):
    if path.is_file():
      _rewrite(path, lambda f: (line for line in f if line.endswith(b'\n') and _line_step(line) <= step))
  for path in _event_files(workdir):
    _rewrite(path, lambda f: (r for r, e in _events(f) if e.file_version or e.step <= step))


def _line_step(line: bytes) -> float:
  try:
    return json.loads(line)['step']
  except (ValueError, KeyError, TypeError):   # left by a power failure
    return math.inf


def _rewrite(path: pathlib.Path, kept: Callable[[Any], Iterator[bytes]]):
  temp = path.with_name('cut.tmp')
  with _named(path):
    with open(path, 'rb') as f, open(temp, 'wb') as out:
      out.writelines(kept(f))
      out.flush()
      os.fsync(out.fileno())
    if temp.stat().st_size == path.stat().st_size:
      temp.unlink()
      return
    os.replace(temp, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
      os.fsync(folder)
    finally:
      os.close(folder)


# ---- episodes --------------------------------------------------------------------------------------------------------

class Episodes:
  """The first `first` prompts of every `every`-th step, one line each in workdir/episodes.jsonl.

  A line has step, prompt (the task's id), index, task (its data), known, metrics, the tree as `parent` and `end` (a number
  a step, see `types.Nodes`), and `steps`: for each obs, text, ids, sampled (0 / 1 an id), fresh, by, branch, reward,
  advantage (track -> number), logp and entropy (means over sampled ids, null without one), label, value, metrics.

  Args:
    workdir: folder of the run; made if it is not there.
    first: prompts kept of a step; 0 keeps none and makes no file.
    every: of how many steps one is kept.

  Raises:
    OSError: the folder cannot be written or the disk is full; the message names the path.
  """

  def __init__(self, workdir: Path, *, first: int = 4, every: int = 1):
    self.first, self.every = first, every
    self._lines = _Lines(pathlib.Path(workdir) / EPISODES) if first else None

  def write(self, step: int, groups: Sequence[Group], advantages: Mapping[str, Sequence[Sequence[float]]] = {}):
    """Appends the prompts of one step.

    Args:
      step: of the run.
      groups: finished prompts.
      advantages: track -> group -> step of the group -> advantage; a group may be missing at the end of a track.

    Raises:
      ValueError: a track has another number of advantages than the group has steps.
    """
    if not self._lines or step % self.every:
      return
    for i, group in enumerate(groups[:self.first]):
      adv = {track: a[i] for track, a in advantages.items() if i < len(a)}
      for track, a in adv.items():
        if len(a) != len(group.nodes):
          raise ValueError(f"track '{track}' has {len(a)} advantages for the {len(group.nodes)} steps of '{group.task.id}'")
      self._lines.add(_group_line(step, group, adv))

  def close(self):
    if self._lines:
      self._lines.close()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.close()


def _group_line(step, group, adv) -> dict[str, Any]:
  return dict(
      step=int(step), prompt=group.task.id, index=group.index, task=_plain(group.task.data),
      known=_plain(group.prompt), metrics=_plain(group.metrics),
      parent=[int(n.parent) for n in group.nodes], end=[int(n.end) for n in group.nodes],
      steps=[_step(n, {track: a[j] for track, a in adv.items()}) for j, n in enumerate(group.nodes)])


def _step(n: Node, adv) -> dict[str, Any]:
  drawn = np.asarray(n.sampled, bool)
  mean = lambda x: float(np.mean(x[drawn], dtype=np.float64)) if x is not None and drawn.any() else None
  return _plain(dict(
      obs=n.obs, text=n.text, ids=[int(i) for i in n.ids], sampled=[int(s) for s in drawn], fresh=bool(n.fresh),
      by=n.by, branch=n.branch, reward=n.reward, advantage=adv, logp=mean(n.logp), entropy=mean(n.stream.get('entropy')),
      label=n.label, value=n.value, metrics=n.metrics))


def _plain(x: Any) -> Any:
  """x as JSON has it; what JSON has no word for as its repr, shortened."""
  if x is None or isinstance(x, (str, bool)):
    return x
  if isinstance(x, (int, np.integer)):
    return int(x)
  if isinstance(x, (float, np.floating)) or (hasattr(x, 'dtype') and np.ndim(x) == 0):
    return _finite(float(x))
  if isinstance(x, Mapping):
    return {str(k): _plain(v) for k, v in x.items()}
  if hasattr(x, '_asdict'):
    return _plain(x._asdict())
  if isinstance(x, (list, tuple)):
    return [_plain(v) for v in x]
  return repr(x)[:200]
