"""A user's own data without writing an environment: a file of `{prompt, answer, ...}` lines and a function that pays."""

import dataclasses
import functools
import gzip
import hashlib
import importlib
import json
import logging
import lzma
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rlx.types import Action, Obs, Step, Task

writes = ('reward/task', 'label/state', 'label/action')

_log = logging.getLogger(__name__)
_OPEN = {'.jsonl': open, '.gz': gzip.open, '.xz': lzma.open}


def jsonl(*, path: str, reward: str | Callable | None, held_out: float = 0.1, seed: int = 0, prompt: str = 'prompt',
          answer: str | None = 'answer') -> 'Jsonl':
  """Single-turn questions from a file: the prompt is shown, one action is paid, the episode is over.

  `reward(prompt, answer, row) -> float`: `answer` is what the MODEL said (its text as decoded, special tokens included); `row`
  is the whole line as a dict, so the right answer is `row['answer']`, under the file's own key. If it raises, or what it gives
  is no finite number, the episode counts as failed (`end` 3, metric `reward_failed`) and a warning is logged.

  Splits, by a hash of seed and line (equal lines stay together): 'train', 'held_out', 'all'.

  Args:
    path: `.jsonl`, `.jsonl.gz` or `.jsonl.xz`, one JSON object a line, UTF-8; blank lines are passed over.
    reward: a callable or its dotted name ('my.mod.fn'); None if `rewards` of the config pay instead, such as `exact`.
    held_out: share of the lines kept from training.
    seed: of the split.
    prompt: key of the prompt, a string.
    answer: key of the right answer, which must be there; None if there is none.

  Raises:
    FileNotFoundError: no file at `path`.
    ValueError: bad line (with file and line number), empty file or split, unknown ending, unknown reward.
  """
  path = str(pathlib.Path(path).expanduser())
  if not 0 <= held_out <= 1:
    raise ValueError(f'held_out is a share between 0 and 1, not {held_out}')
  if pathlib.Path(path).suffix not in _OPEN:
    raise ValueError(f"'{path}' should end in .jsonl, .jsonl.gz or .jsonl.xz")
  if not pathlib.Path(path).is_file():
    raise FileNotFoundError(f"there is no file '{path}'")
  if isinstance(reward, str):
    reward = _named(reward)
  return Jsonl(path=path, reward=reward, held_out=float(held_out), seed=seed, prompt=prompt, answer=answer)


class Line(NamedTuple):
  """Data of a jsonl task."""
  prompt: str
  answer: Any
  row: Mapping[str, Any]


class State(NamedTuple):
  """Where an episode stands: before its only action, or over."""
  task: str
  line: Line
  over: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jsonl:
  """The environment `jsonl` makes; its fields are explained there."""
  path: str
  reward: Callable | None
  held_out: float
  seed: int
  prompt: str
  answer: str | None

  @property
  def writes(self) -> tuple[str, ...]:
    return writes if self.reward else writes[1:]

  def tasks(self, split: str) -> Sequence[Task]:
    """The lines of a split in the order of the file; the id is `file:line number`."""
    lines = _lines(self.path, self.prompt, self.answer)
    if split not in ('train', 'held_out', 'all'):
      raise ValueError(f"split '{split}' is not one of ['train', 'held_out', 'all']")
    name = pathlib.Path(self.path).name
    belongs = lambda digest: split == 'all' or self._kept(digest) == (split == 'held_out')
    found = [Task(f'{name}:{number}', line) for number, digest, line in lines if belongs(digest)]
    if not found:
      raise ValueError(f"none of the {len(lines)} lines of '{self.path}' falls into split '{split}', held_out={self.held_out}")
    return found

  def _kept(self, digest):
    fraction = int.from_bytes(hashlib.sha256(f'{self.seed}/'.encode() + digest).digest()[:8], 'big') / 2**64
    return fraction < self.held_out

  def reset(self, task: Task, seed: int) -> tuple[State, Obs]:
    """Shows the prompt as it stands in the file."""
    del seed
    return State(task.id, task.data), Obs(task.data.prompt, {'state': task.id})

  def step(self, state: State, action: Action) -> tuple[State, Step]:
    """Pays the answer."""
    if state.over:
      raise ValueError(f'the episode of task {state.task} is over')
    over, label = state._replace(over=True), {'action': ' '.join(action.text.split())}
    if self.reward is None:
      return over, Step('', end=1, label=label)
    try:
      paid = self.reward(state.line.prompt, action.text, state.line.row)
      if not math.isfinite(paid):
        raise ValueError(f'it gave {paid}')
    except Exception as e:   # whatever a user's function does must not end a run; it is counted and told
      _log.warning('the reward of %s failed: %s: %s', state.task, type(e).__name__, e)
      return over, Step('', end=3, label=label, metrics={'reward_failed': 1.})
    return over, Step('', {'task': float(paid)}, 1, label)


@functools.lru_cache(maxsize=4)
def _lines(path, prompt, answer):
  """((line number, digest, Line), ...) of a file."""
  lines = []
  with _OPEN[pathlib.Path(path).suffix](path, 'rt', encoding='utf-8') as file:
    for number, text in enumerate(file, 1):
      if not text.strip():
        continue
      where = f'{path}, line {number}'
      try:
        row = json.loads(text)
      except ValueError as e:
        raise ValueError(f'{where}: not JSON ({e})') from None
      if not isinstance(row, dict):
        raise ValueError(f'{where}: should be an object {{...}}, is {type(row).__name__}')
      for key in (prompt, answer):
        if key is not None and key not in row:
          raise ValueError(f"{where}: no key '{key}'; it has {sorted(row)}. Name the keys with prompt= and answer=")
      if not isinstance(row[prompt], str) or not row[prompt].strip():
        raise ValueError(f"{where}: '{prompt}' should be a text with something in it")
      lines.append((number, hashlib.sha256(text.strip().encode()).digest(), Line(row[prompt], row.get(answer), row)))
  if not lines:
    raise ValueError(f"'{path}' is empty")
  return tuple(lines)


def _named(name):
  module, _, function = name.rpartition('.')
  try:
    found = getattr(importlib.import_module(module), function)
  except (ImportError, AttributeError, ValueError) as e:
    raise ValueError(f"reward '{name}' cannot be imported: {e}") from e
  if not callable(found):
    raise ValueError(f"reward '{name}' is not a function")
  return found
