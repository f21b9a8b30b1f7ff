"""Tables of runs: every row over every seed, one after another, beside the paper's numbers.

`python -m rlx.table --config configs/tables/<x>.py [--workdir runs/tables/<x>]`. Stopped in between, the same command goes on:
a finished cell is not run again, and a half-done run continues from its checkpoint.

A table's config is a file with `get_config()`, which returns a mapping:
  rows      tuple of dict(name=, config=, overrides={'key': value}, paper={column: number}); the last two may be missing
  seeds     tuple of ints
  columns   names out of the runs' summary line
  minutes   wall limit of one run
  claims    text printed above the table
"""

import argparse
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from rlx.show import progress, stats

TRAIN = (sys.executable, '-m', 'rlx.train')
KEYS = ('rows', 'seeds', 'columns', 'minutes', 'claims')
ROW_KEYS = ('name', 'config', 'overrides', 'paper')


class Cell(NamedTuple):
  """One run: its summary, or why there is none."""
  row: str
  seed: int
  values: Mapping[str, Any]
  failure: str = ''


# ---- config ----------------------------------------------------------------------------------------------------------

def read(path: str | os.PathLike) -> dict[str, Any]:
  """What a file's `get_config()` returns, unchecked.

  Raises:
    ValueError: no such file, no get_config.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"no table config '{path}': give a file such as configs/tables/quickstart.py")
  spec = importlib.util.spec_from_file_location(f'table_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, 'get_config'):
    raise ValueError(f"'{path}' has no get_config(): define one that returns {', '.join(KEYS)}")
  config = module.get_config()
  return {k: config[k] for k in config}


def load(path: str | os.PathLike) -> dict[str, Any]:
  """The table of runs that a file holds, checked.

  Raises:
    ValueError: as `read`; an unknown or missing key, two rows of one name; one sentence says which.
  """
  table = read(path)
  _check_keys(table, KEYS, KEYS, f"'{path}'")
  for row in table['rows']:
    _check_keys(row, ROW_KEYS, ROW_KEYS[:2], f"a row of '{path}'")
    unknown = sorted(set(row.get('paper', {})) - set(table['columns']))
    if unknown:
      raise ValueError(f"row '{row['name']}' of '{path}' has the paper's {unknown}, but the columns are {list(table['columns'])}")
  names = [_slug(row['name']) for row in table['rows']]
  if len(set(names)) < len(names):
    raise ValueError(f"two rows of '{path}' would share a folder: their names must differ in letters and digits: {names}")
  return table


def _check_keys(found, known, needed, where):
  for key in found:
    if key not in known:
      raise ValueError(f"{where} has the unknown key '{key}'; known are {', '.join(known)}")
  for key in needed:
    if key not in found:
      raise ValueError(f"{where} lacks the key '{key}'")


def _slug(name):
  return re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'row'


def arguments(row: Mapping[str, Any], seed: int) -> list[str]:
  """Command-line arguments of one run but its workdir; text stands as it is, everything else as Python writes it."""
  overrides = dict(row.get('overrides', {})) | {'seed': seed}
  return ['--config', str(row['config']), *(f'--config.{k}={v if isinstance(v, str) else repr(v)}' for k, v in overrides.items())]


def cell_folder(workdir: str | os.PathLike, row: Mapping[str, Any], seed: int) -> pathlib.Path:
  """Folder of one run: it changes with the run's arguments, so an edited row starts anew and what it was stays."""
  mark = hashlib.sha256('\n'.join(arguments(row, seed)).encode()).hexdigest()[:6]
  return pathlib.Path(workdir) / _slug(row['name']) / f'seed{seed}_{mark}'


# ---- running ---------------------------------------------------------------------------------------------------------

def run_cell(row: Mapping[str, Any], seed: int, folder: pathlib.Path, *, minutes: float,
             command: Sequence[str] = TRAIN) -> tuple[Cell, bool]:
  """Runs one row with one seed, or reads what it said before.

  The run works in folder/run, its output is in folder/log.txt, its summary in folder/result.json. Failures are tried again.

  Args:
    row: of the table.
    seed: becomes `--config.seed`.
    folder: of the cell.
    minutes: the run and all it started are killed after as long.
    command: what the arguments are appended to.

  Returns:
    (cell, whether it was run now).
  """
  folder.mkdir(parents=True, exist_ok=True)
  result, log = folder / 'result.json', folder / 'log.txt'
  if result.is_file():
    return Cell(row['name'], seed, json.loads(result.read_text())), False
  with open(log, 'wb') as out:
    args = [*command, *arguments(row, seed), '--workdir', str(folder / 'run')]
    process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
      code = process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
      code = None
    finally:   # an interrupt, too: nothing goes on behind our back
      _kill_group(process)
  failure, values = _outcome(code, log.read_text(errors='replace').splitlines(), minutes)
  if not failure:
    temp = folder / 'result.tmp'
    temp.write_text(json.dumps(values) + '\n')
    os.replace(temp, result)
  return Cell(row['name'], seed, values, failure), True


def _kill_group(process):
  try:
    os.killpg(process.pid, signal.SIGKILL)
  except ProcessLookupError:
    pass
  process.wait()


def _outcome(code, lines, minutes) -> tuple[str, dict[str, Any]]:
  """(why the run failed or '', its summary)."""
  lines = [line.strip() for line in lines if line.strip()]
  last = lines[-1][:160] if lines else 'no output'
  if code is None:
    return f'longer than {minutes:g} minutes', {}
  if code:
    return f'exit {code}: {last}' if code > 0 else f'killed by signal {-code}: {last}', {}
  summary = next(filter(None, map(progress.parse_summary, reversed(lines))), None)
  return ('', summary[1]) if summary else (f'no summary line; it ended with: {last}', {})


def run(table: Mapping[str, Any], workdir: str | os.PathLike, *, command: Sequence[str] = TRAIN, say=print) -> list[Cell]:
  """Runs what is missing of a table, seed by seed, and rewrites workdir/table.md after each run.

  Args:
    table: see `load`.
    workdir: of the table; each run has its own folder below it.
    command: see `run_cell`.
    say: takes a line of text.
  """
  workdir, cells = pathlib.Path(workdir), []
  todo = [(row, seed) for seed in table['seeds'] for row in table['rows']]
  for n, (row, seed) in enumerate(todo, 1):
    start = time.monotonic()
    folder = cell_folder(workdir, row, seed)
    cell, ran = run_cell(row, seed, folder, minutes=table['minutes'], command=command)
    cells.append(cell)
    text = cell.failure or ' '.join(f'{k}={_number(v)}' for k, v in cell.values.items() if k in table['columns'])
    took = progress.clock_text(time.monotonic() - start) if ran else 'done before'
    say(f"[{n}/{len(todo)}] {row['name']}, seed {seed}: {text} ({took})" + (f', see {folder}/log.txt' if cell.failure else ''))
    (workdir / 'table.md').write_text(markdown(table, cells))
  return cells


# ---- the table -------------------------------------------------------------------------------------------------------

def markdown(table: Mapping[str, Any], cells: Sequence[Cell]) -> str:
  """The table: for each row and column the paper's number, our mean with its 95 % interval, and each seed.

  The interval is Student's over seeds, so it is there from two seeds on; failed runs are n/a and not in the mean.
  """
  out = [table['claims'].strip(), ''] if table['claims'] else []
  seeds = ' '.join(map(str, table['seeds']))
  out += [f'| row | column | paper | ours | 95 % | seeds {seeds} |', '|---|---|---|---|---|---|']
  failures = {}
  for row in table['rows']:
    mine = {c.seed: c for c in cells if c.row == row['name']}
    for i, column in enumerate(table['columns']):
      shown, numbers = [], []
      for seed in table['seeds']:
        cell = mine.get(seed)
        value = cell.values.get(column) if cell else None
        if isinstance(value, (int, float)) and math.isfinite(value):
          numbers.append(value)
          shown.append(_number(value))
        else:
          shown.append('n/a' if cell else '...')
        if cell and value is None:
          failures.setdefault((row['name'], cell.failure or f'no {column} in its summary'), {})[seed] = None
      mean, low, high = stats.t_interval(numbers)
      out.append(' | '.join([
          f"| {_escaped(row['name']) if not i else ''}", column, _number(row.get('paper', {}).get(column)), _number(mean),
          f'{_number(low)} to {_number(high)}' if math.isfinite(low) else '-', ' '.join(shown) + ' |']))
  if failures:
    out += ['', 'n/a:']
    out += [f"- {name}, seed {', '.join(map(str, seeds))}: {why}" for (name, why), seeds in failures.items()]
  return '\n'.join(out) + '\n'


def _number(x) -> str:
  if isinstance(x, str):
    return x
  if x is None or not math.isfinite(x):
    return '-'
  return f'{x:.0f}' if abs(x) >= 100 else f'{x:.3g}' if abs(x) < .1 and x else f'{x:.2f}'


def _escaped(text):
  return text.replace('|', '\\|')


def main(args: Sequence[str] | None = None, *, command: Sequence[str] = TRAIN):
  """Runs a table and prints it."""
  parser = argparse.ArgumentParser(prog='python -m rlx.table', description='Runs a table of configs over seeds.')
  parser.add_argument('--config', required=True, help='file with get_config(), such as configs/tables/quickstart.py')
  parser.add_argument('--workdir', help='default: runs/tables/<name of the file>')
  flags = parser.parse_args(args)
  workdir = pathlib.Path(flags.workdir or pathlib.Path('runs', 'tables', pathlib.Path(flags.config).stem))
  def stop(*_):   # or else the run under way would go on alone
    raise SystemExit(143)
  before = signal.signal(signal.SIGTERM, stop)
  try:
    if 'tasks' in (matrix := read(flags.config)):
      from rlx.show import probe_matrix      # it needs all of the credit code
      return probe_matrix.main(matrix, flags.config, workdir)
    table = load(flags.config)
    cells = run(table, workdir, command=command, say=lambda text: print(text, flush=True))
  except (ValueError, OSError) as e:
    raise SystemExit(str(e)) from None
  finally:
    signal.signal(signal.SIGTERM, before)
  print(f'\n{markdown(table, cells)}\n{workdir}/table.md')
