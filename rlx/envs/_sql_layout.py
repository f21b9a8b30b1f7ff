"""Spider's layout: questions as JSON, a SQLite file a database, and a schema as text.

  dev.json  train_spider.json  [train_others.json]  [tables.json]  database/<db>/<db>.sqlite

A question is an object with `db_id`, `question` and `query`. `tables.json` is used for keys only, where a file declares none
(many of the official ones do not).
"""

import contextlib
import functools
import json
import pathlib
import re
import sqlite3
import zlib
from collections.abc import Mapping, Sequence

from rlx.envs import sql_sandbox
from rlx.envs.sql_data import Question
from rlx.types import Task

SPLITS = ('train', 'dev', 'held_out_questions', 'held_out_databases', 'train_all')
HELD = 20   # one gold query in so many is kept back

_NAME = re.compile(r'[A-Za-z_]\w*', re.ASCII)


class Questions(Sequence):
  """The questions of a split in the order of the files; number i of a file has the same id in every split."""

  def __init__(self, path: str, split: str):
    self.path, self.split = path, split

  def __len__(self) -> int:
    return len(self._places())

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[j] for j in range(*i.indices(len(self)))]
    places = self._places()
    if not -len(places) <= i < len(places):
      raise IndexError(f"question {i} of split '{self.split}', which has {len(places)}")
    file = 'dev' if self.split in ('dev', 'held_out_databases') else 'train'
    db, text, gold = read(self.path)[file][places[i]]
    return Task(f'spider/{file}/{places[i]}', Question(str(_file(self.path, db)), db, text, gold))

  def _places(self):
    return _splits(self.path)[self.split]


@functools.lru_cache(maxsize=8)
def _splits(path):
  rows = read(path)
  kept = [zlib.crc32(f'{db}/{gold}'.encode()) % HELD == 0 for db, _, gold in rows['train']]
  dev, every = range(len(rows['dev'])), range(len(kept))
  return dict(train=[i for i in every if not kept[i]], held_out_questions=[i for i in every if kept[i]], train_all=every,
              dev=dev, held_out_databases=dev)


# ---- files ---------------------------------------------------------------------------------------------------------

def folder(path: str) -> str:
  """The absolute path; `read` and `keys` remember what they read under it."""
  return str(pathlib.Path(path).expanduser().absolute())


@functools.lru_cache(maxsize=8)
def read(path: str) -> dict[str, tuple[tuple[str, str, str], ...]]:
  """{'train', 'dev'}: (database, question, gold query) as the files have them.

  Raises:
    ValueError: something of the layout is missing or is not what it should be; the message names it.
  """
  root = pathlib.Path(path)
  if not root.is_dir():
    raise ValueError(f"there is no folder '{path}': give path the folder that holds Spider's dev.json and database/")
  others = ['train_others.json'] if (root / 'train_others.json').is_file() else []
  rows = dict(dev=_rows(root / 'dev.json'), train=tuple(r for f in ['train_spider.json', *others] for r in _rows(root / f)))
  for db in sorted({db for part in rows.values() for db, *_ in part}):
    _checked(_file(path, db), db)
  return rows


def _file(path, db):
  return pathlib.Path(path) / 'database' / db / f'{db}.sqlite'


def _json(file, kind):
  try:
    found = json.loads(file.read_text(encoding='utf-8'))
  except FileNotFoundError:
    raise ValueError(f"'{file}' does not exist: path must hold Spider's layout (dev.json, train_spider.json, database/)") from None
  except (OSError, ValueError) as e:
    raise ValueError(f"'{file}' cannot be read: {e}") from e
  if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
    raise ValueError(f"'{file}' is not a list of {kind}")
  return found


def _rows(file):
  found = _json(file, 'questions')
  rows = tuple((row.get('db_id'), row.get('question'), row.get('query')) for row in found)
  for i, row in enumerate(rows):
    if not all(isinstance(v, str) and v for v in row):
      raise ValueError(f"question {i} of '{file}' must have db_id, question and query; it has {sorted(found[i])}")
  if not rows:
    raise ValueError(f"'{file}' holds no question")
  return rows


def _checked(file, db):
  try:
    with open(file, 'rb') as f:
      head = f.read(16)
  except OSError:
    raise ValueError(f"'{file}' does not exist, and questions of database '{db}' need it") from None
  if head != b'SQLite format 3\0':
    raise ValueError(f"'{file}' is not a SQLite database")


# ---- schemas -------------------------------------------------------------------------------------------------------

@functools.lru_cache(maxsize=8)
def keys(path: str) -> Mapping[str, dict]:
  """database -> {'primary': {table: columns}, 'refers': {(table, column): 'table . column'}} of tables.json; names in lower case."""
  file, out = pathlib.Path(path) / 'tables.json', {}
  if not file.is_file():
    return out
  for db in _json(file, 'databases'):
    try:
      tables = db['table_names_original']
      columns = [(tables[t] if t >= 0 else '', c) for t, c in db['column_names_original']]
      primary: dict[str, tuple] = {}
      for key in db.get('primary_keys', ()):
        for i in key if isinstance(key, list) else (key,):     # a key of several columns is a list
          table, column = columns[i]
          primary[table.lower()] = (*primary.get(table.lower(), ()), column)
      lower = lambda i: (columns[i][0].lower(), columns[i][1].lower())
      refers = {lower(a): ' . '.join(columns[b]) for a, b in db.get('foreign_keys', ())}
      out[db['db_id']] = dict(primary=primary, refers=refers)
    except (KeyError, TypeError, IndexError, ValueError) as e:
      raise ValueError(f"'{file}' does not describe database {db.get('db_id')!r} as Spider does: {type(e).__name__} {e}") from e
  return out


def tables(path: str | None, q: Question) -> tuple[sql_sandbox.Table, ...]:
  """The tables of a question's file, with the keys of tables.json for those that declare none."""
  said = keys(path).get(q.db, {}) if path else {}
  return _merged(q.path, said) if said else sql_sandbox.schema(q.path)


def _merged(file, said):
  out = []
  for t in sql_sandbox.schema(file):
    name = t.name.lower()
    refers = t.refers if any(t.refers) else tuple(said['refers'].get((name, c.lower())) for c in t.columns)
    out.append(t._replace(primary=t.primary or said['primary'].get(name, ()), refers=refers))
  return tuple(out)


def described(found: Sequence[sql_sandbox.Table]) -> str:
  """A schema as text: a line a table, then one a foreign key; names as SQL must write them."""
  columns = lambda t: ', '.join(' '.join(filter(None, (quoted(c), kind, 'key' if c in t.primary else ''))) for c, kind in zip(t.columns, t.types))
  place = lambda table, column: f'{quoted(table)}.{quoted(column)}'
  keys = [f'{place(t.name, c)} = {place(*to.split(" . ", 1))}' for t in found for c, to in zip(t.columns, t.refers) if to]
  return '\n'.join([f'{quoted(t.name)}({columns(t)})' for t in found] + keys)


@functools.lru_cache(maxsize=1 << 14)
def quoted(name: str) -> str:
  """An identifier as SQL must write it: in double quotes where it has odd signs or is a word of SQL."""
  if _NAME.fullmatch(name):
    with contextlib.closing(sqlite3.connect(':memory:')) as con, contextlib.suppress(sqlite3.Error):
      if con.execute(f"SELECT {name} FROM (SELECT 'x' AS {name})").fetchone() == ('x',):
        return name
  return '"' + name.replace('"', '""') + '"'
