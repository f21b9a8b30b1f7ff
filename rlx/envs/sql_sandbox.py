"""Runs SQL nobody vouches for on a database file that must not change.

The file is opened read-only and immutable; an authorizer lets through one SELECT over the file's own tables and functions of
a list; SQLite's limits bound lengths, depths and argument counts; the progress handler bounds the work in SQLite VM steps.
All of these depend on the file and the text alone, so an answer can be repeated. The wall clock is only a backstop for
what steps do not measure (a slow function on long text): `ended_by` is then 'time', and whoever asked must not give credit.
"""

import collections
import contextlib
import functools
import os
import pathlib
import re
import sqlite3
import threading
import time
from typing import NamedTuple


class Result(NamedTuple):
  """What a query gave: rows, or an error as text."""
  rows: tuple[tuple, ...] | None
  error: str | None = None
  ended_by: str = 'done'   # 'done' | 'error' | 'steps' | 'size' | 'time'


class Table(NamedTuple):
  """A table as its file declares it."""
  name: str
  columns: tuple[str, ...]
  types: tuple[str, ...]
  refers: tuple[str | None, ...]   # 'table . column' a column refers to
  primary: tuple[str, ...] = ()    # columns of the primary key


SQL_LENGTH = 4000      # characters of a query
CONNECTIONS = 160      # open files a thread keeps
TICK = 100             # VM steps between two looks at the limits
REMEMBERED = 65_536    # bytes of a result; a longer one is quick to compute again, and thousands of them are a lot of memory

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000,           # bytes of a value or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4 * SQL_LENGTH,
    sqlite3.SQLITE_LIMIT_COLUMN: 100,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 16,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_DATES = ('date', 'time', 'datetime', 'julianday', 'strftime')
_FUNCTIONS = frozenset((
    'abs avg coalesce count group_concat ifnull iif instr length like glob lower upper ltrim rtrim trim max min nullif replace '
    'round substr substring sum total typeof row_number rank dense_rank percent_rank cume_dist ntile lag lead first_value '
    'last_value nth_value').split()) | frozenset(_DATES)
_READING = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_READ}
_CLOCK = {'now', 'localtime', 'utc', 'subsec', 'subsecond'}
_SELECT = re.compile(r'(?>\s|--[^\n]*\n|/\*.*?\*/)*+(?:select|with|values)\b', re.IGNORECASE | re.DOTALL)   # never goes back


def execute(path: str, sql: str, *, max_rows: int = 200, max_bytes: int = 16_384, vm_steps: int = 100_000,
            seconds: float = 5.) -> Result:
  """Runs one SELECT; what is wrong with it is told as text, never raised.

  Answers are remembered unless they are long, so the file at `path` must not change.

  Args:
    path: SQLite file.
    sql: the query.
    max_rows: a result of more rows is an error: a part of it would compare equal to what it is not.
    max_bytes: likewise, text and blobs by their length, numbers as 8.
    vm_steps: limit of work in steps of SQLite's virtual machine, to the next multiple of 100.
    seconds: wall time after which a query is given up; such an answer is not remembered.

  Raises:
    FileNotFoundError: there is no database at `path` (nobody's query is to blame).
  """
  if len(sql) > SQL_LENGTH:
    return Result(None, f'the query is longer than {SQL_LENGTH} characters', 'size')
  try:
    return _run(path, sql, max_rows, max_bytes, vm_steps, seconds)
  except _Passing as e:
    return e.result


@functools.lru_cache(maxsize=4096)
def schema(path: str) -> tuple[Table, ...]:
  """The tables of a file in the order they were made."""
  with contextlib.closing(_open(path)) as con:
    infos = {name: con.execute('SELECT name, type, pk FROM pragma_table_info(?)', (name,)).fetchall() for name in _tables(con, ('table',))}
    primary = {name: tuple(c for c, _, pk in sorted(info, key=lambda i: i[2]) if pk) for name, info in infos.items()}
    first = {name.lower(): key[0] for name, key in primary.items() if key}
    tables = []
    for name, info in infos.items():
      keys = con.execute('SELECT "from", "table", "to" FROM pragma_foreign_key_list(?)', (name,))
      refers = {column.lower(): f'{table} . {to or first.get(table.lower(), "id")}' for column, table, to in keys}   # without `to`: its key
      columns, types, _ = zip(*info)
      tables.append(Table(name, columns, types, tuple(refers.get(c.lower()) for c in columns), primary[name]))
  return tuple(tables)


@functools.lru_cache(maxsize=4096)
def reads(path: str, sql: str) -> tuple[tuple[str, ...], ...]:
  """((table, column, column ...), ...): what a query reads, in the order in which SQLite comes upon it; () if it does not compile."""
  found: dict[str, dict] = {}

  def note(action, what, column, *_):
    if action == sqlite3.SQLITE_READ and what.lower() in names:
      found.setdefault(names[what.lower()], {}).update({column: None} if column else {})
    return sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY

  with contextlib.closing(_open(path)) as con:
    names = {n.lower(): n for n in _tables(con, ('table',))}
    con.set_authorizer(note)
    try:
      con.execute(f'EXPLAIN {sql}')
    except (sqlite3.Error, sqlite3.Warning, ValueError):
      return ()
  return tuple((table, *columns) for table, columns in found.items())


def agree(path: str, sql: str, gold: str, **limits) -> bool | None:
  """Whether two queries give the same rows: as a list where `gold` orders them, as a multiset elsewhere.

  Floats are compared to 9 digits, since a sum depends on the order of its terms. None: the wall-clock backstop fired.

  Raises:
    ValueError: `gold` itself does not run.
  """
  want = execute(path, gold, **limits)
  if want.error and want.ended_by != 'time':
    raise ValueError(f'the gold query of {path} does not run ({want.error}): {gold}')
  got = want if sql == gold else execute(path, sql, **limits)
  if 'time' in (got.ended_by, want.ended_by):
    return None
  if got.rows is None or len(got.rows) != len(want.rows):
    return False
  if got.rows == want.rows:
    return True
  a, b = map(_rounded, (got.rows, want.rows))
  return a == b if ordered(gold) else collections.Counter(a) == collections.Counter(b)


@functools.lru_cache(maxsize=4096)
def ordered(sql: str) -> bool:
  """Whether a query orders its result: an ORDER BY outside of strings and brackets."""
  sql = re.sub(r"'[^']*'", '', sql)
  while (inner := re.sub(r'\([^()]*\)', '', sql)) != sql:
    sql = inner
  return re.search(r'\border\s+by\b', sql, re.IGNORECASE) is not None


def _rounded(rows):
  return [tuple(float(f'{v:.9g}') if isinstance(v, float) else v for v in row) for row in rows]


# ---- one query -----------------------------------------------------------------------------------------------------

class _Passing(Exception):
  """A result that passes through the memory of answers without being remembered."""

  def __init__(self, result):
    super().__init__()
    self.result = result


@functools.lru_cache(maxsize=4096)
def _run(path, sql, max_rows, max_bytes, vm_steps, seconds):
  con = _connection(path)
  if not _SELECT.match(sql):
    return Result(None, 'syntax error: only one SELECT is allowed', 'error')
  ticks, deadline, ended_by = 0, time.monotonic() + seconds, 'error'

  def tick():
    nonlocal ticks, ended_by
    ticks += 1
    if ticks * TICK >= vm_steps:
      ended_by = 'steps'
    elif time.monotonic() > deadline:
      ended_by = 'time'
    return ended_by != 'error'

  con.set_progress_handler(tick, TICK)
  rows, size = [], 0
  try:
    for row in con.execute(sql):
      size += sum(len(v) if isinstance(v, (str, bytes)) else 8 for v in row)
      if len(rows) == max_rows or size > max_bytes:
        return Result(None, f'the result is longer than {max_rows} rows or {max_bytes} bytes', 'size')
      rows.append(row)
  except (sqlite3.Error, sqlite3.Warning, ValueError, MemoryError) as e:
    if ended_by == 'time':
      raise _Passing(Result(None, 'the query took too long', 'time')) from None
    return Result(None, 'the query takes too many steps' if ended_by == 'steps' else str(e), ended_by)
  finally:
    con.set_progress_handler(None, 0)
  if size > REMEMBERED:
    raise _Passing(Result(tuple(rows)))
  return Result(tuple(rows))


# ---- connections ---------------------------------------------------------------------------------------------------

_local = threading.local()
os.register_at_fork(after_in_child=lambda: _local.__dict__.clear())   # a connection must not be used on both sides of a fork


def _open(path):
  uri = pathlib.Path(path).absolute().as_uri() + '?mode=ro&immutable=1'
  try:
    # no statement is used again: it would count its steps on
    con = sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=0)
  except sqlite3.Error as e:
    raise FileNotFoundError(f'there is no SQLite database at {path} ({e})') from None
  con.text_factory = lambda b: b.decode('utf-8', 'replace')
  return con


def _tables(con, kinds):
  found = con.execute("SELECT name, type FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~' ORDER BY rowid")
  return [name for name, kind in found if kind in kinds]


def _connection(path):
  """This thread's guarded connection to a file; the one unused for longest is closed when there are too many."""
  if not hasattr(_local, 'open'):
    _local.open, _local.dates = collections.OrderedDict(), sqlite3.connect(':memory:')
  con = _local.open.get(path)
  if con is None:
    if len(_local.open) >= CONNECTIONS:
      _local.open.popitem(last=False)[1].close()
    con = _local.open[path] = _open(path)
    _guard(con, _local.dates)
  _local.open.move_to_end(path)
  return con


def _guard(con, dates):
  for pragma in ('query_only = ON', 'trusted_schema = OFF', 'temp_store = MEMORY'):
    con.execute(f'PRAGMA {pragma}')
  tables = {n.lower() for n in _tables(con, ('table', 'view'))}
  for category, limit in _LIMITS.items():
    con.setlimit(category, limit)

  def dated(name):
    def call(*args):   # the built-in one, without the clock and the time zone of the machine
      given = args[1:] if name == 'strftime' else args
      if not given or any(isinstance(a, str) and a.strip().lower() in _CLOCK for a in given):
        raise ValueError('the clock is not available')
      return dates.execute(f'SELECT {name}({",".join("?" * len(args))})', args).fetchone()[0]
    con.create_function(name, -1, call, deterministic=True)
  for name in _DATES:
    dated(name)

  def allow(action, what, column, *_):
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
      ok = True
    elif action == sqlite3.SQLITE_FUNCTION:
      ok = column.lower() in _FUNCTIONS
    elif action == sqlite3.SQLITE_READ:
      # a common table expression of which no column is read is reported by its name and ''
      name = what.lower()
      ok = name in tables or (column == '' and not name.startswith(('sqlite_', 'pragma_')))
    else:
      ok = False
    return sqlite3.SQLITE_OK if ok else sqlite3.SQLITE_DENY
  con.set_authorizer(allow)
