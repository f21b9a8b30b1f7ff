"""World `spider`, protocol `multi`: the schema is explored, by tag or by SQL, and what a query gives is shown before it is confirmed.

  Database: concert_singer
  Question: How many singers are from France?
  <explore> tables </explore><obs> tables stadium , singer , concert </obs>
  <explore> singer </explore><obs> columns Singer_ID INTEGER key , Name TEXT , Country TEXT </obs>
  <sql> SELECT COUNT(*) FROM singer WHERE Country = 'france' </sql><obs> ok 1 rows : 0 </obs>
  <sql> SELECT COUNT(*) FROM singer WHERE Country = 'France' </sql><obs> ok 1 rows : 4 </obs>
  <answer> ok </answer>

The tags of `hidden_names`, so both worlds share stop strings. Text before the tag is a thought; what is no action is told so and
costs a turn. `<explore> table . column </explore>` shows the values that occur most.
"""

import functools
import logging
import random
import re

from rlx.envs import _sql_hidden, _sql_layout, sql_sandbox
from rlx.envs.sql_data import Question, cell

MIX = (('skip', 0.35), ('careful', 0.35), ('sloppy', 0.2), ('retry', 0.1))
CHANNELS = ('task',)
LABELS = ('state', 'action', 'next', 'schema')
INSTRUCTION = """Answer the question with one SQLite query. The tables are not shown, so explore them first. One action a turn:
<explore> tables </explore> lists the tables
<explore> TABLE </explore> shows the columns of a table
<explore> TABLE . COLUMN </explore> shows the values that occur most in a column
<sql> QUERY </sql> runs a query and shows its first rows
<answer> ok </answer> confirms the last query"""

TAG = re.compile(r'(?:.*?)<(explore|sql|answer)>((?:(?!<(?:explore|sql|answer)>).)*)</\1>', re.DOTALL)
_FENCE = re.compile(r'```(?:[ \t]*(sql\w*)\b|[ \t]*(?!select\b|with\b)\w*[ \t]*\n)?(.*?)(?:```|\Z)', re.DOTALL | re.IGNORECASE)
_QUERY = re.compile(r'\b(?:select\b|with\s+(?:recursive\s+)?["\w]+\s*(?:\([^()]*\)\s*)?as\s*(?:not\s+)?(?:materialized\s*)?\()', re.IGNORECASE)
_END = re.compile(r"""(?:[^;'"`]|'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`(?!``))*""")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|\w+""")
_TURNS = ((r' > ', ' < '), (r' < ', ' > '), (r'\bdesc\b', 'ASC'), (r'\basc\b', 'DESC'), (r'\bavg\s*\(', 'SUM('), (r'\bsum\s*\(', 'AVG('),
          (r'\bmax\s*\(', 'MIN('), (r'\bmin\s*\(', 'MAX('))


def prompt(env, q: Question) -> str:
  """What an episode begins with."""
  said = INSTRUCTION if env.instruction is None else env.instruction
  return f'{said}\n\nDatabase: {q.db}\nQuestion: {q.text}'.lstrip()


def step(env, state, text):
  """One action: (state, what is observed, its act or None where it is no action, end, reward, metrics)."""
  found, q = TAG.fullmatch(text.strip()), state.question
  act, said = (found[1], found[2].strip()) if found else (None, '')
  if act == 'answer':
    if state.sql is None:
      return state, '', act, 1, unfinished(env, state), {}
    return (state, '', act, *judged(env, q, state.sql))
  if act is None:
    seen = 'error no action'
  elif act == 'explore':
    seen = _explored(env, q, said)
  else:
    state = state._replace(sql=query(said) or said)
    result = sql_sandbox.execute(q.path, state.sql, **env.limits)
    if result.ended_by == 'time':
      return state, '', act, 3, {}, {'backstop': 1.}
    seen = _shown(result)
  if state.turn >= env.turns:
    return state, '', act, 1, unfinished(env, state), {'out_of_turns': 1.}
  return state, f'<obs> {seen} </obs>', act, 0, {}, {}


def judged(env, q: Question, sql: str):
  """(end, reward, metrics) of a query given as the answer. A gold query that does not run fails the episode: no credit."""
  try:
    right = sql_sandbox.agree(q.path, sql, q.sql, **env.limits)
  except ValueError as e:
    logging.getLogger(__name__).warning('%s', e)
    return 3, {}, {'gold_failed': 1.}
  if right is None:
    return 3, {}, {'backstop': 1.}
  runs = right or sql_sandbox.execute(q.path, sql, **env.limits).error is None
  return 1, {'task': float(right)}, {'correct': float(right), 'runs': float(runs)}


unfinished, labels = _sql_hidden.unfinished, _sql_hidden.labels      # an episode is paid and labelled as in that world


def query(text: str) -> str | None:
  """The SQL in a text: of its last ```sql fence (or its last fence), else from the first SELECT or WITH on, to `;` or the end."""
  fences = _FENCE.findall(text)[::-1]
  for body in (*(b for kind, b in fences if kind), *(b for _, b in fences), text):
    if start := _QUERY.search(body):
      return _END.match(body, start.start())[0].strip()
  return None


def _explored(env, q, what):
  """`tables`; a table: its columns with types and keys; `table . column`: the values that occur most."""
  tables = _sql_layout.tables(env.path, q)
  if what == 'tables':
    return 'tables ' + ' , '.join(cell(t.name) for t in tables)
  same = lambda a, b: a.lower() == b.strip().strip('"`').lower()
  if table := next((t for t in tables if same(t.name, what)), None):
    columns = zip(table.columns, table.types, table.refers)
    return 'columns ' + ' , '.join(' '.join(filter(None, (cell(c), kind, 'key' if c in table.primary else '', f'-> {cell(to)}' if to else '')))
                                   for c, kind, to in columns)
  name, _, column = what.partition('.')
  table = next((t for t in tables if same(t.name, name)), None)
  if table is None:
    return 'error no such table'
  column = next((c for c in table.columns if same(c, column)), None)
  if column is None:
    return 'error no such column'
  sql = 'SELECT {0} FROM {1} GROUP BY {0} ORDER BY COUNT( * ) DESC , {0} LIMIT 6'.format(*map(_sql_layout.quoted, (column, table.name)))
  result = sql_sandbox.execute(q.path, sql, **env.limits)
  return f'error {cell(result.error)}' if result.error else 'values ' + ' , '.join(cell(v) for v, in result.rows)


def _shown(result):
  if result.error:
    return f'error {cell(result.error)}'
  rows = ' ; '.join(' , '.join(map(cell, row[:6])) for row in result.rows[:3])
  return f'ok {len(result.rows)} rows' + (f' : {rows}' if rows else '')


# ---- experts -------------------------------------------------------------------------------------------------------

def expert(q: Question, kind: str, rng: random.Random):
  """Yields actions and is sent what is observed.

  skip: guesses the names, see `guessed`. careful: explores the tables that the gold query reads. retry: skips, and explores after an
  error. sloppy: explores, then slips, see `slipped`.
  """
  if kind in ('skip', 'retry'):
    seen = yield f'<sql> {guessed(q)} </sql>'
    if kind == 'skip' or seen.startswith('<obs> ok'):
      yield '<answer> ok </answer>'
      return
  yield '<explore> tables </explore>'
  for table, *_ in sql_sandbox.reads(q.path, q.sql):
    yield f'<explore> {table} </explore>'
  yield f'<sql> {slipped(q, rng) if kind == "sloppy" else q.sql} </sql>'
  yield '<answer> ok </answer>'


def guessed(q: Question) -> str:
  """The gold query with each name of several words cut to its last one: what one writes who has not seen the schema."""
  short = lambda name: re.split(r'[_\s]', name)[-1] or name
  return _renamed(q.sql, {n: short(n) for n in _names(q.path) if not n.isdigit()})


def slipped(q: Question, rng: random.Random) -> str:
  """The gold query with a comparison, an order or an aggregate turned around (7 in 10, where there is one), or with a wrong column."""
  turned = [s for a, b in _TURNS if (s := re.sub(a, b, q.sql, flags=re.IGNORECASE)) != q.sql]
  read = [(table, c) for table, *columns in sql_sandbox.reads(q.path, q.sql) for c in columns]
  if turned and (rng.random() < 0.7 or not read):
    return rng.choice(turned)
  if not read:
    return q.sql
  table, column = rng.choice(read)
  others = [c for t in sql_sandbox.schema(q.path) if t.name == table for c in t.columns if c != column]
  return _renamed(q.sql, {column: rng.choice(others)}) if others else q.sql


@functools.lru_cache(maxsize=512)
def _names(path):
  return frozenset(n.lower() for t in sql_sandbox.schema(path) for n in (t.name, *t.columns))


def _renamed(sql, names):
  """Identifiers replaced, with regard neither to case nor to what stands between apostrophes."""
  names = {old.lower(): new for old, new in names.items()}
  def one(found):
    word = found[0]
    new = names.get(word.strip('"').lower())
    if new is None or word[0] == "'":
      return word
    if word[0] == '"':
      return f'"{new}"'
    return _sql_layout.quoted(new) if _sql_layout.quoted(word) == word else word   # a bare word of SQL is no name
  return _QUOTED.sub(one, sql)
