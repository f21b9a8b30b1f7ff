"""World `four_acts`: the protocol of TRUST-SQL (arXiv:2603.16448) on databases of eight domains.

  clinic0 : how many visits whose doctor has specialty 'surgery'
  <explore_schema> tables </explore_schema><obs> tables physicians patients appointments </obs>
  <explore_schema> physicians </explore_schema><obs> columns id INTEGER , full_name TEXT , specialty TEXT , ... </obs>
  <explore_schema> appointments </explore_schema><obs> columns id INTEGER , doctor_id INTEGER -> physicians . id , ... </obs>
  <propose_schema> appointments doctor_id ; physicians id specialty </propose_schema><obs> ok 2 tables 3 columns </obs>
  <generate_sql> SELECT COUNT( * ) FROM ... </generate_sql><obs> ok 1 rows : 17 </obs>
  <confirm_answer> ok </confirm_answer>

The acts come in this order: exploring is over once a schema is proposed, and it is proposed once. So it is known at each step
whether it belongs to the schema track (paper and release take the last proposal, known only when the episode has ended).
`<explore_schema> table . column </explore_schema>` shows values. Paper: 10 turns at most.
"""

import random
import re

from rlx.envs import sql_sandbox
from rlx.envs.sql_data import REVERSED, Question, cell

MIX = (('careful', 0.25), ('hasty', 0.45), ('sloppy', 0.2), ('retry', 0.1))
CHANNELS = ('task', 'answer', 'format', 'schema')
LABELS = ('state', 'action', 'next', 'schema', 'explore', 'act')
ACTS = ('explore_schema', 'propose_schema', 'generate_sql', 'confirm_answer')
MODES = ('truematch', 'recall_then_precision_strict', 'totalmatch', 'recall_then_precision', 'f1', 'precision', 'recall')

TAG = re.compile(f'<({"|".join(ACTS)})>(.*)</\\1>', re.DOTALL)


# ---- acts ----------------------------------------------------------------------------------------------------------

def prompt(env, q: Question) -> str:
  """What an episode begins with."""
  text = f'{q.db} : {q.text}'
  return f'{env.instruction}\n\n{text}' if env.instruction else text


def step(env, state, text):
  """One action: (state, what is observed, its act or None where it is no act, end, reward, metrics)."""
  act = TAG.fullmatch(text.strip())
  act, said = (act[1], act[2].strip()) if act else (None, '')
  q = state.question
  if act == 'confirm_answer':
    return _confirmed(env, state._replace(acts=state.acts | {act}))
  if act is None:
    seen, fault = 'error no act', True
  elif act == 'generate_sql' and not state.proposed:
    seen, fault = 'error propose a schema first', True
  elif act != 'generate_sql' and state.proposed:
    seen, fault = 'error the schema is proposed', True
  elif act == 'explore_schema':
    seen, fault = _explored(q.path, said, env.limits), False
  elif act == 'propose_schema':
    proposed = tuple(tuple(part.split()) for part in said.split(';') if part.split())
    state, fault = state._replace(proposed=proposed), not proposed
    seen = f'ok {len(proposed)} tables {sum(map(len, proposed)) - len(proposed)} columns' if proposed else 'error no table'
  else:
    result = sql_sandbox.execute(q.path, said, **env.limits)
    if result.ended_by == 'time':
      return state, '', act, 3, {}, {'backstop': 1.}
    state, fault = state._replace(sql=said), 'syntax' in (result.error or '')
    seen = f'error {cell(result.error)}' if result.error else f'ok {len(result.rows)} rows' + _rows(result.rows[:3])
  state = state._replace(clean=False) if fault else state._replace(acts=state.acts | {act})
  if state.turn >= env.turns:
    return state, '', act, 1, unfinished(env, state), {'out_of_turns': 1.}
  return state, f'<obs> {seen} </obs>', act, 0, {}, {}


def _rows(rows):
  return ' : ' + ' ; '.join(' , '.join(map(cell, row[:4])) for row in rows) if rows else ''


def _explored(path, what, limits):
  """`tables`; a table: its columns with types and keys; `table . column`: the values that occur most."""
  tables = sql_sandbox.schema(path)
  if what == 'tables':
    return ' '.join(['tables', *(t.name for t in tables)])
  name, _, column = (part.strip() for part in what.partition('.'))
  table = next((t for t in tables if t.name == name), None)
  if table is None:
    return 'no such table'
  if not column:
    columns = zip(table.columns, table.types, table.refers)
    return 'columns ' + ' , '.join(f'{c} {kind}' + (f' -> {to}' if to else '') for c, kind, to in columns)
  if column not in table.columns:
    return 'no such column'
  query = 'SELECT "{0}" FROM "{1}" GROUP BY "{0}" ORDER BY COUNT( * ) DESC , "{0}" LIMIT 6'.format(column, name)
  result = sql_sandbox.execute(path, query, **limits)
  return 'too many values' if result.error else 'values ' + ' , '.join(cell(v) for v, in result.rows)


def labels(state, act) -> dict:
  """`schema` and `explore`: 1 on the steps up to the proposal; `act`: which of the four, or 'none'."""
  early = int(not state.proposed)
  return dict(schema=early, explore=early, act=act or 'none')


# ---- rewards -------------------------------------------------------------------------------------------------------

def _confirmed(env, state):
  q, right, runs = state.question, False, False
  if state.sql is not None:
    right = sql_sandbox.agree(q.path, state.sql, q.sql, **env.limits)
    if right is None:
      return state, '', 'confirm_answer', 3, {}, {'backstop': 1.}
    runs = right or sql_sandbox.execute(q.path, state.sql, **env.limits).error is None
  reward = _reward(env, state, 1. if right else 0.2 if runs else 0.)
  return state, '', 'confirm_answer', 1, reward, {'correct': float(right)}


def unfinished(env, state) -> dict:
  """What an episode is paid that never confirms an answer."""
  return _reward(env, state, 0.)


def _reward(env, state, answer):
  form = 0.1 if state.clean and len(state.acts) == len(ACTS) else 0.
  schema = schema_score(state.proposed, state.question.uses, env.schema)
  if env.schema in MODES[:2] and answer != 1.:
    schema = 0.
  return dict(task=answer + form, answer=answer, format=form, schema=schema)


def schema_score(proposed, gold, mode: str) -> float:
  """How well a proposed schema covers the gold one: 0.4 x tables + 0.6 x columns, names without regard to case.

  Args:
    proposed: ((table, column, column ...), ...).
    gold: likewise.
    mode: one of `MODES`. 'truematch' and 'totalmatch': 1 if both agree exactly, else 0. 'recall_then_precision': precision
      where nothing is missing, else 0; '..._strict': the same in buckets, 1 at 1, .8 from .9, .6 from .8, .4 from .7, .2 from
      .6, else .1.
  """
  tables = [{t[0].lower() for t in s} for s in (proposed, gold)]
  columns = [{(t[0].lower(), c.lower()) for t in s for c in t[1:]} for s in (proposed, gold)]
  if not proposed:
    return 0.
  (tp, tr), (cp, cr) = map(_precision_recall, (tables, columns))
  weighted = lambda t, c: 0.4 * t + 0.6 * c
  if mode in ('truematch', 'totalmatch'):
    return float(tp == tr == cp == cr == 1)
  if mode == 'precision':
    return weighted(tp, cp)
  if mode == 'recall':
    return weighted(tr, cr)
  if mode == 'f1':
    return weighted(*(2 * p * r / (p + r) if p + r else 0. for p, r in ((tp, tr), (cp, cr))))
  if min(tr, cr) < 1:
    return 0.
  precision = weighted(tp, cp)
  if mode == 'recall_then_precision':
    return precision
  buckets = (1., 1.), (0.9, 0.8), (0.8, 0.6), (0.7, 0.4), (0.6, 0.2)
  return next((score for least, score in buckets if precision >= least), 0.1)


def _precision_recall(pair):
  found, gold = pair
  if not found and not gold:
    return 1., 1.
  hit = len(found & gold)
  return hit / max(len(found), 1), hit / max(len(gold), 1)


# ---- experts -------------------------------------------------------------------------------------------------------

def expert(q: Question, kind: str, rng: random.Random):
  """Yields actions and is sent what is observed.

  careful: explores the tables it needs, proposes what it uses. hasty: explores nothing and guesses the names. retry: guesses
  the columns of its first query. sloppy: explores, then proposes a column too many or too few, and in half of the cases turns
  a comparison, an order or an aggregate around.
  """
  if kind == 'hasty':
    yield propose_text(_guessed(q))
    yield f'<generate_sql> {q.template.format(*q.words)} </generate_sql>'
    yield '<confirm_answer> ok </confirm_answer>'
    return
  uses, query = q.uses, q.sql
  yield '<explore_schema> tables </explore_schema>'
  for table, *_ in uses:
    yield f'<explore_schema> {table} </explore_schema>'
  if kind == 'sloppy':
    table, *columns = uses[0]
    others = [c for t in sql_sandbox.schema(q.path) if t.name == table for c in t.columns if c not in columns]
    columns = columns[1:] if columns and rng.random() < 0.5 else [*columns, *others[:1]]
    uses = ((table, *columns), *uses[1:])
    turned = [q.sql.replace(a, b) for a, b in REVERSED if a in q.sql]
    query = turned[0] if turned and rng.random() < 0.5 else query
  yield propose_text(uses)
  if kind == 'retry':
    tables = {t[0] for t in q.uses}
    guess = [n if n in tables else w for n, w in zip(q.names, q.words)]
    seen = yield f'<generate_sql> {q.template.format(*guess)} </generate_sql>'
    if seen.startswith('<obs> ok'):
      yield '<confirm_answer> ok </confirm_answer>'
      return
  yield f'<generate_sql> {query} </generate_sql>'
  yield '<confirm_answer> ok </confirm_answer>'


def _guessed(q):
  of = dict(zip(q.names, q.words))
  return tuple(tuple(of.get(n, n) for n in part) for part in q.uses)


def propose_text(uses) -> str:
  """The action that proposes ((table, column ...), ...)."""
  return f'<propose_schema> {" ; ".join(map(" ".join, uses))} </propose_schema>'
