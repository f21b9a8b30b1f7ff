"""World `hidden_names`: many small databases in which every table and column has one of several names.

A database draws a name for each of its concepts, a question draws one on its own: the question's words are right one time in
two (with two names), so without exploring about one answer in six is right, and what exploring reads off is what is needed.

  db12 : list the name of employees with city 'rome'
  <explore> tables </explore><obs> tables staff villas </obs>
  <explore> staff </explore><obs> columns id town fee label age kind </obs>
  <sql> SELECT label FROM staff WHERE town = 'rome' </sql><obs> ok 3 rows first raven </obs>
  <answer> ok </answer>

Each identifier has one space before it, so it can be one token; `answer` confirms the last query.
"""

import random
import re

from rlx.envs import sql_sandbox
from rlx.envs.sql_data import REVERSED, Column, Database, Question, Table, cell

MIX = (('skip', 0.55), ('careful', 0.25), ('sloppy', 0.13), ('retry', 0.07))
CHANNELS = ('task',)
LABELS = ('state', 'action', 'next', 'schema')

TAG = re.compile(r'<(explore|sql|answer)>(.*)</\1>', re.DOTALL)


def _names(text):
  return {k: tuple(v.split()) for k, v in (part.split(':') for part in text.split('|'))}


ENTITIES = _names(
    'employee:employees staff workers|product:products items goods|customer:customers clients buyers|book:books volumes prints|'
    'film:films movies features|song:songs tracks tunes|car:cars autos vehicles|school:schools colleges academies|'
    'team:teams clubs squads|hotel:hotels inns lodges|ship:ships vessels boats|house:houses homes villas')
NUMBERS = _names(
    'price:price cost fee|age:age years seniority|size:size area extent|rating:rating score stars|weight:weight mass load|'
    'income:income earnings revenue|stock:stock quantity supply|speed:speed pace velocity')
TEXTS = _names('city:city town place|color:color hue tint|kind:kind type category|country:country nation land')
NAMES = ENTITIES | NUMBERS | TEXTS | _names('name:name title label')
VALUES = _names('city:paris rome oslo lima cairo delhi|color:red blue green black white pink|'
                'kind:basic premium classic sport deluxe rare|country:france italy norway peru egypt india')
PROPER = (
    'anna bob carl dora emil fay gus hana ivan june kurt lena milo nora otto pia quin rosa sven tara uma vera walt xena yann '
    'zoe amber basil cedar dune ember flint grove heath iris jade kale lark moss nova onyx pearl quartz raven sage '
    'thorn').split()
FAMILIES = ('filter', 'compare', 'count', 'countcmp', 'agg', 'aggf', 'argmax', 'top', 'group')
AGGREGATES = (('average', 'AVG'), ('total', 'SUM'), ('highest', 'MAX'), ('lowest', 'MIN'))


def database(index: int, rng: random.Random, synonyms: int) -> Database:
  """Two or three tables of an id, a name, two numbers and two texts, 14 to 22 rows; numbers do not repeat in a column."""
  name = lambda concept: rng.choice(NAMES[concept][:synonyms])
  tables = []
  for entity in rng.sample(list(ENTITIES), rng.choice((2, 3, 3))):
    concepts = ['name', *rng.sample(list(NUMBERS), 2), *rng.sample(list(TEXTS), 2)]
    rng.shuffle(concepts)
    n = rng.randint(14, 22)
    fill = lambda c: (rng.sample(PROPER, n) if c == 'name' else rng.sample(range(10, 100), n) if c in NUMBERS
                      else [rng.choice(VALUES[c]) for _ in range(n)])
    columns = [Column('id', 'id', 'INTEGER')] + [Column(c, name(c), 'INTEGER' if c in NUMBERS else 'TEXT') for c in concepts]
    tables.append(Table(entity, name(entity), tuple(columns), tuple(zip(range(1, n + 1), *map(fill, concepts)))))
  return Database(f'db{index}', tuple(tables))


def question(db: Database, rng: random.Random, synonyms: int) -> Question:
  """One of nine families about one table; a value is one that occurs, a bound is near one that occurs."""
  family, table = rng.choice(FAMILIES), rng.choice(db.tables)
  concepts = [c.concept for c in table.columns]
  num = rng.choice([c for c in concepts if c in NUMBERS])
  txt = rng.choice([c for c in concepts if c in TEXTS])
  row = rng.choice(table.rows)
  up, k, (ag, fn) = rng.random() < 0.5, rng.choice((2, 3, 4)), rng.choice(AGGREGATES)
  value = row[concepts.index(txt)]
  bound = min(max(row[concepts.index(num)] + (-1 if up else 1) * rng.randint(1, 6), 10), 99)
  word = {c: rng.choice(NAMES[c][:synonyms]) for c in (table.concept, num, txt, 'name')}
  of, n, t, m = word[table.concept], word[num], word[txt], word['name']
  ab, op, hi, way = ('above', '>', 'highest', 'DESC') if up else ('below', '<', 'lowest', 'ASC')
  has, near = f"with {t} '{value}'", f'with {n} {ab} {bound}'
  whose, close, best = f"{{0}} WHERE {{2}} = '{value}'", f'{{0}} WHERE {{2}} {op} {bound}', f'{{0}} ORDER BY {{2}} {way} LIMIT'
  text, template, use = dict(
      filter=lambda: (f'list the {m} of {of} {has}', f'SELECT {{1}} FROM {whose}', ('name', txt)),
      compare=lambda: (f'list the {m} of {of} {near}', f'SELECT {{1}} FROM {close}', ('name', num)),
      count=lambda: (f'how many {of} {has}', f"SELECT COUNT( * ) FROM {{0}} WHERE {{1}} = '{value}'", (txt,)),
      countcmp=lambda: (f'how many {of} {near}', f'SELECT COUNT( * ) FROM {{0}} WHERE {{1}} {op} {bound}', (num,)),
      agg=lambda: (f'what is the {ag} {n} of {of}', f'SELECT {fn}( {{1}} ) FROM {{0}}', (num,)),
      aggf=lambda: (f'what is the {ag} {n} of {of} {has}', f'SELECT {fn}( {{1}} ) FROM {whose}', (num, txt)),
      argmax=lambda: (f'{m} of {of} with the {hi} {n}', f'SELECT {{1}} FROM {best} 1', ('name', num)),
      top=lambda: (f'{m} of the {k} {of} with {hi} {n}', f'SELECT {{1}} FROM {best} {k}', ('name', num)),
      group=lambda: (f'how many {of} for each {t}', 'SELECT {1} , COUNT( * ) FROM {0} GROUP BY {1}', (txt,)),
  )[family]()
  names = (table.name, *(table.columns[concepts.index(c)].name for c in use))
  return Question(db.path, db.name, text, template.format(*names), family, (table.concept, family, *use), template, names,
                  (of, *(word[c] for c in use)), (names,))


def prompt(env, q: Question) -> str:
  """What an episode begins with."""
  text = f'{q.db} : {q.text}'
  return f'{env.instruction}\n\n{text}' if env.instruction else text


def step(env, state, text):
  """One action: (state, what is observed, its act or None where the tag is broken, end, reward, metrics)."""
  act = TAG.fullmatch(text.strip())
  if act is None:
    return state, '', None, 1, unfinished(env, state), {}
  act, said = act[1], act[2].strip()
  q = state.question
  if act == 'answer':
    if state.sql is None:
      return state, '', act, 1, unfinished(env, state), {}
    right = sql_sandbox.agree(q.path, state.sql, q.sql, **env.limits)
    if right is None:
      return state, '', act, 3, {}, {'backstop': 1.}
    return state, '', act, 1, {'task': float(right)}, {'correct': float(right)}
  if act == 'sql':
    state = state._replace(sql=said)
    result = sql_sandbox.execute(q.path, said, **env.limits)
    if result.ended_by == 'time':
      return state, '', act, 3, {}, {'backstop': 1.}
    seen = _shown(result)
  else:
    seen = _explored(q.path, said)
  if state.turn >= env.turns:
    return state, '', act, 1, unfinished(env, state), {'out_of_turns': 1.}
  return state, f'<obs> {seen} </obs>', act, 0, {}, {}


def unfinished(env, state) -> dict:
  """What an episode is paid that never confirms an answer."""
  del state
  return {'task': env.unconfirmed}


def labels(state, act) -> dict:
  """`schema`: 1 on the steps that explore."""
  del state
  return dict(schema=int(act == 'explore'))


def _explored(path, what):
  tables = sql_sandbox.schema(path)
  if what == 'tables':
    return ' '.join(['tables', *(t.name for t in tables)])
  return next((' '.join(['columns', *t.columns]) for t in tables if t.name == what), 'error no such table')


def _shown(result):
  if result.error:
    return 'error ' + (cell(result.error) if result.error.startswith('no such') else 'syntax')
  first = ' , '.join(map(cell, result.rows[0][:2])) if result.rows else ''
  return f'ok {min(len(result.rows), 99)} rows' + (f' first {first}' if first else '')


def expert(q: Question, kind: str, rng: random.Random):
  """Yields actions and is sent what is observed.

  skip: takes the question's words for names. careful: explores first. retry: skips, and explores after an error.
  sloppy: explores, then takes a wrong column or turns a comparison, an order or an aggregate around.
  """
  literal, query = q.template.format(*q.words), q.sql
  if kind in ('skip', 'retry'):
    seen = yield f'<sql> {literal} </sql>'
    if kind == 'skip' or seen.startswith('<obs> ok'):
      yield '<answer> ok </answer>'
      return
  yield '<explore> tables </explore>'
  yield f'<explore> {q.names[0]} </explore>'
  if kind == 'sloppy':
    turned = [q.sql.replace(a, b) for a, b in REVERSED if a in q.sql]
    slot = rng.randrange(1, len(q.names))
    columns = next(t.columns for t in sql_sandbox.schema(q.path) if t.name == q.names[0])
    wrong = rng.choice([c for c in columns[1:] if c != q.names[slot]])
    names = [wrong if i == slot else name for i, name in enumerate(q.names)]
    query = turned[0] if turned and rng.random() < 0.7 else q.template.format(*names)
  yield f'<sql> {query} </sql>'
  yield '<answer> ok </answer>'
