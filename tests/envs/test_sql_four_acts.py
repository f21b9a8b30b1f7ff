"""World `four_acts`: acts and rewards by hand, databases, questions, experts."""

import collections
import re
import sqlite3

import pytest
from sql_play import accuracy, expert, play

from rlx.envs import _sql_domains, _sql_four, _sql_questions, sql_sandbox
from rlx.envs import sql as sql_module
from rlx.envs.sql import sql


FINE = ['<explore_schema> tables </explore_schema>', '<explore_schema> goods </explore_schema>',
        '<explore_schema> goods . town </explore_schema>', '<propose_schema> goods title town </propose_schema>',
        "<generate_sql> SELECT title FROM goods WHERE town = 'rome' </generate_sql>", '<confirm_answer> ok </confirm_answer>']


@pytest.fixture
def visit(shop):
  return shop._replace(data=shop.data._replace(uses=(('goods', 'title', 'town'),)))


def test_four_acts_by_hand(visit):
  env = sql(world='four_acts')
  _, _, _, steps = play(env, visit, FINE)
  assert [s.obs for s in steps] == [
      '<obs> tables goods staff </obs>', '<obs> columns id INTEGER , title TEXT , town TEXT , cost INTEGER </obs>',
      '<obs> values rome , oslo </obs>', '<obs> ok 1 tables 2 columns </obs>', '<obs> ok 2 rows : raven ; moss </obs>', '']
  assert steps[-1].reward == dict(task=1.1, answer=1., format=0.1, schema=1.) and not any(s.reward for s in steps[:-1])
  assert [s.label['explore'] for s in steps] == [s.label['schema'] for s in steps] == [1, 1, 1, 1, 0, 0]
  assert [s.label['act'] for s in steps] == ['explore_schema'] * 3 + ['propose_schema', 'generate_sql', 'confirm_answer']
  assert [s.metrics['explored'] for s in steps] == [1., 1., 1., 0., 0., 0.] and steps[-1].metrics['correct'] == 1.


@pytest.mark.parametrize('change, answer, form, seen', [
    (lambda f: f[:4] + ['<generate_sql> SELECT cost FROM goods </generate_sql>', f[5]], 0.2, 0.1, None),
    (lambda f: f[:4] + ['<generate_sql> SELECT colour FROM goods </generate_sql>', f[5]], 0., 0.1,
     'error no such column: colour'),
    (lambda f: f[:4] + ['<generate_sql> SELECT FROM goods </generate_sql>', *f[4:]], 1., 0., 'error near "FROM": syntax error'),
    (lambda f: f[:4] + ['<generate_sql> DELETE FROM goods </generate_sql>', *f[4:]], 1., 0.,
     'error syntax error: only one SELECT is allowed'),
    (lambda f: f[3:], 1., 0., None),                                                   # never explored
    (lambda f: f[:4] + f[5:], 0., 0., None),                                           # no query
    (lambda f: [f[4], *f], 1., 0., 'error propose a schema first'),
    (lambda f: f[:4] + [f[0], *f[4:]], 1., 0., 'error the schema is proposed'),
    (lambda f: f[:4] + [f[3], *f[4:]], 1., 0., 'error the schema is proposed'),
    (lambda f: ['hello', *f], 1., 0., 'error no act'),
    (lambda f: f[:3] + ['<propose_schema> ; </propose_schema>', *f[3:]], 1., 0., 'error no table'),
    (lambda f: ['<explore_schema> nothing </explore_schema>', *f], 1., 0.1, 'no such table'),
    (lambda f: ['<explore_schema> goods . nothing </explore_schema>', *f], 1., 0.1, 'no such column'),
    (lambda f: ['<explore_schema> staff . odd name </explore_schema>', *f], 1., 0.1, 'values'),
])
def test_what_each_slip_costs(visit, change, answer, form, seen):
  _, _, _, steps = play(sql(world='four_acts', schema='totalmatch'), visit, change(FINE))
  assert steps[-1].reward == pytest.approx(dict(task=answer + form, answer=answer, format=form, schema=1.))
  if seen:
    assert f'<obs> {seen} </obs>' in [' '.join(s.obs.split()) for s in steps]
  assert all(s.metrics['valid'] == float(s.label['act'] != 'none') for s in steps)


def test_out_of_turns_in_four_acts(visit):
  last = play(sql(world='four_acts', turns=3, schema='totalmatch'), visit, FINE[:2] + [FINE[3]])[3][-1]
  assert last.end == 1 and last.metrics['out_of_turns'] == 1. and last.metrics['correct'] == 0.
  assert last.reward == dict(task=0., answer=0., format=0., schema=1.)


def test_the_schema_is_paid_only_with_the_answer_unless_said(visit):
  wrong = FINE[:4] + ['<generate_sql> SELECT cost FROM goods </generate_sql>', FINE[5]]
  paid = {mode: play(sql(world='four_acts', schema=mode), visit, wrong)[3][-1].reward['schema'] for mode in _sql_four.MODES}
  assert paid == dict(truematch=0., recall_then_precision_strict=0., totalmatch=1., recall_then_precision=1., f1=1., precision=1.,
                      recall=1.)


# worked by hand: gold two tables and three columns
@pytest.mark.parametrize('proposed, scores', [
    ((('A', 'x', 'y'), ('b', 'Z')), (1, 1, 1, 1, 1, 1)),
    ((('a', 'x', 'y', 'w'), ('b', 'z')), (0, 0.6, 0.85, 0.4 + 0.6 * 6 / 7, 0.85, 1)),   # one column too many
    ((('a', 'x', 'y', 'p', 'q', 'r'), ('b', 'z'), ('c',), ('d',)), (0, 0.1, 0.5, 0.4 * 2 / 3 + 0.6 * 2 / 3, 0.5, 1)),
    ((('a', 'x', 'y'),), (0, 0, 0, 0.4 * 2 / 3 + 0.6 * 0.8, 1, 0.4 * 0.5 + 0.6 * 2 / 3)),
    ((), (0, 0, 0, 0, 0, 0)), ((('c', 'u'),), (0, 0, 0, 0, 0, 0)),
])
def test_schema_score(proposed, scores):
  gold = (('a', 'x', 'y'), ('b', 'z'))
  modes = ('truematch', 'recall_then_precision_strict', 'recall_then_precision', 'f1', 'precision', 'recall')
  assert [_sql_four.schema_score(proposed, gold, m) for m in modes] == pytest.approx(scores)
  assert _sql_four.schema_score(proposed, gold, 'totalmatch') == scores[0]


def test_databases_of_eight_domains(four):
  """At least four domains to train on, others held out; keys that hold, NULLs, dates in order, joins that find rows."""
  train, held, _ = sql_module._databases(four)
  assert {d.domain for d in train} == set(_sql_domains.DOMAINS) - {'hotel', 'museum'}
  assert {d.domain for d in held} == {'hotel', 'museum'}
  names = [n for d in _sql_domains.DOMAINS.values() for e in d for n in e.names]
  assert len(names) == len(set(names)) == 48   # so a gold text belongs to one domain
  assert len({str(d.tables) for d in train}) == 24
  nulls = 0
  for db in train + held:
    con = sqlite3.connect(db.path)
    assert not con.execute('PRAGMA foreign_key_check').fetchall()
    for t in db.tables:
      rows = con.execute(f'SELECT * FROM {t.name}').fetchall()
      assert rows == list(t.rows) and [c[1] for c in con.execute(f'PRAGMA table_info({t.name})')] == [c.name for c in t.columns]
      nulls += sum(v is None for r in rows for v in r)
      for c, values in zip(t.columns, zip(*rows)):
        if c.type == 'DATE':
          assert all(v is None or re.fullmatch(r'\d{4}-\d\d-\d\d', v) for v in values)
        if c.refers:
          child, parent = f'{t.name}.{c.name}', '.'.join(c.refers)
          assert con.execute(f'SELECT COUNT(*) FROM {t.name} JOIN {c.refers[0]} ON {child} = {parent}').fetchone()[0] > 0
    con.close()
  assert nulls > 100
  loans = next(t for d in train if d.domain == 'library' for t in d.tables if t.concept == 'loans')
  assert all(r[loans.at('returned')] is None or r[loans.at('taken')] < r[loans.at('returned')] for r in loans.rows)


def test_four_acts_questions(four):
  questions = [t.data for t in four.tasks('train')[:1200]]
  counts = collections.Counter(q.family for q in questions)
  assert set(counts) == set(_sql_questions.FAMILIES) and min(counts.values()) > 20
  for q in questions:
    result = sql_sandbox.execute(q.path, q.sql)
    assert result.rows, (q, result)
    assert q.template.format(*q.names) == q.sql and len(q.words) == len(q.names)
    tables = {t.name: t.columns for t in sql_sandbox.schema(q.path)}
    for table, *columns in q.uses:
      assert set(columns) <= set(tables[table]) and f' {table} ' in f'{q.sql} '
  assert all(any(part in q.sql for q in questions) for part in (' JOIN ', 'IS NULL', 'BETWEEN', 'NOT IN', 'HAVING'))


def test_four_acts_experts(four):
  tasks = four.tasks('train')[:300]
  assert accuracy(four, tasks, 'careful') == 1. and accuracy(four, tasks, 'retry') == 1.
  assert accuracy(four, tasks, 'hasty') < 0.3 and 0.5 < accuracy(four, tasks, 'sloppy') < 0.9
  assert 0.4 < accuracy(four, tasks) < 0.7
  for task in tasks[:100]:
    assert play(four, task, expert(four, task, 'careful'))[3][-1].reward == dict(task=1.1, answer=1., format=0.1, schema=1.)
    assert play(four, task, expert(four, task, 'sloppy'))[3][-1].reward['schema'] == 0.
