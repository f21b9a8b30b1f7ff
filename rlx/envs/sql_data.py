"""What the worlds of the sql environment share: databases as values, their files, questions, what an episode remembers."""

import contextlib
import hashlib
import os
import pathlib
import sqlite3
import tempfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple


class Column(NamedTuple):
  """`concept` is what questions speak of; `name` is what the file calls it."""
  concept: str
  name: str
  type: str                                 # as declared: INTEGER, REAL, TEXT, DATE
  refers: tuple[str, str] | None = None     # (table, column), by name


class Table(NamedTuple):
  concept: str
  name: str
  columns: tuple[Column, ...]               # the first is the key, `id`
  rows: tuple[tuple, ...]

  def at(self, concept: str) -> int:
    """Which column stands for a concept."""
    return next(i for i, c in enumerate(self.columns) if c.concept == concept)


class Database(NamedTuple):
  name: str
  tables: tuple[Table, ...]
  path: str = ''
  domain: str = ''


class Question(NamedTuple):
  """Data of a sql task. A question of one's own on one's own file needs the first four only."""
  path: str                                 # SQLite file; it must not change
  db: str                                   # what the prompt calls it
  text: str
  sql: str                                  # gold
  family: str = ''
  combo: tuple[str, ...] = ()               # entity, family and attributes: the unit of the held-out questions
  template: str = ''                        # `sql` with a field in place of each name
  names: tuple[str, ...] = ()               # names for its fields: `template.format(*names) == sql`
  words: tuple[str, ...] = ()               # names as they would be guessed from the question alone
  uses: tuple[tuple[str, ...], ...] = ()    # gold schema: (table, column, column ...) by name


class State(NamedTuple):
  """Where an episode stands. A value: it pickles, and stepping leaves it alone."""
  task: str
  question: Question
  turn: int = 0
  sql: str | None = None                    # the last query that was tried
  proposed: tuple[tuple[str, ...], ...] = ()
  acts: frozenset = frozenset()             # acts that have gone well
  clean: bool = True                        # no error was answered yet
  over: bool = False


def held_out(combo: tuple[str, ...]) -> bool:
  """A fifth of the combinations never occurs in training: a hash of the combination, the same for every seed."""
  return zlib.crc32(repr(combo).encode()) % 5 == 0


# ---- text ----------------------------------------------------------------------------------------------------------

# what a sloppy expert turns around
REVERSED = ((' > ', ' < '), (' < ', ' > '), ('DESC', 'ASC'), ('ASC', 'DESC'), ('AVG(', 'SUM('), ('SUM(', 'AVG('),
            ('MAX(', 'MIN('), ('MIN(', 'MAX('))


def cell(value) -> str:
  """A value as it is shown: on one line, at most 40 characters, without the sign that opens a tag."""
  if isinstance(value, float):
    value = round(value, 1)
  elif value is None:
    value = 'NULL'
  return ' '.join(str(value).replace('<', '(')[:40].split())


# ---- files ---------------------------------------------------------------------------------------------------------

def cache_folder() -> pathlib.Path:
  """`$XDG_CACHE_HOME/rlx`, by default `~/.cache/rlx`."""
  return pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache') / 'rlx'


def write(databases: Sequence[Database], root: str | None) -> tuple[Database, ...]:
  """Makes the files that are not there yet, in a folder named after what is in them, and says where they are.

  A file appears whole or not at all, so several processes may do this at once, and one that was deleted comes back.
  """
  content = hashlib.sha256(repr(databases).encode()).hexdigest()[:16]
  folder = (pathlib.Path(root).expanduser() if root else cache_folder()).absolute() / f'sql-{content}'
  folder.mkdir(parents=True, exist_ok=True)
  there = set(os.listdir(folder))
  placed = tuple(db._replace(path=str(folder / f'{db.name}.sqlite')) for db in databases)
  missing = [db for db in placed if os.path.basename(db.path) not in there]
  if missing:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix='.sql-') as made:
      for db in missing:
        file = os.path.join(made, 'db')
        _fill(file, db)
        os.chmod(file, 0o444)
        os.replace(file, db.path)
  return placed


def _fill(file, db):
  with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as con:
    con.execute('PRAGMA journal_mode = OFF')
    con.execute('PRAGMA synchronous = OFF')   # the rename is what makes the file appear
    con.execute('BEGIN')
    for t in db.tables:
      refers = lambda c: ' REFERENCES {} ({})'.format(*c.refers) if c.refers else ''
      columns = [f'{c.name} {c.type}{refers(c)}' for c in t.columns]
      columns[0] += ' PRIMARY KEY'
      con.execute(f'CREATE TABLE {t.name} ({", ".join(columns)})')
      con.executemany(f'INSERT INTO {t.name} VALUES ({",".join("?" * len(t.columns))})', t.rows)
    con.execute('COMMIT')
