"""Partial rewards of a query: the sums of the paper's note on a real file, each term by itself, the judge."""

import asyncio
import contextlib
import inspect
import sqlite3

import pytest

from rlx.envs.sql import Question
from rlx.judges.scripted import scripted
from rlx.rewards.sql_partial import score, sql_partial
from rlx.types import Episode, Node, Task


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('sql') / 'a.sqlite')
  with contextlib.closing(sqlite3.connect(path)) as con:
    con.execute('CREATE TABLE staff (id INTEGER, name TEXT, age INTEGER)')
    con.execute('CREATE TABLE towns (id INTEGER, town TEXT)')
    con.executemany('INSERT INTO staff VALUES (?, ?, ?)', [(1, 'anna', 30), (2, 'bob', 30), (3, 'carl', 50)])
    con.commit()
  return path


def paid(path, gold, *texts, **kw):
  nodes = [Node(i - 1, 'obs', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  got = sql_partial(Episode(Task('t', Question(path, 'a', 'q', gold)), nodes, range(len(nodes))), **kw)
  got = asyncio.run(got) if inspect.isawaitable(got) else got
  assert set(got) == {'partial'} and got['partial'][:-1] == [0.] * (len(texts) - 1)
  return got['partial'][-1]


GOLD = 'SELECT name FROM staff WHERE(age>40)'
EPS = 2e-4     # of the 1e-4 in a Jaccard


def test_the_worked_sums(file):
  """Right, schema 2/4, bigrams 3/5: 3 + .5 + .6 + 1 + 1 = 6.1. Wrong but judged .5: 2 * .5 + .5 + .6 + 1 + 1 = 4.1."""
  assert paid(file, GOLD, '<sql>SELECT name FROM staff WHERE(id=3)</sql>') == pytest.approx(6.1, abs=EPS)
  wrong, half = '<sql>SELECT name FROM staff WHERE(id=2)</sql>', scripted(otherwise='Close.\n0.5')
  assert paid(file, GOLD, wrong, judge=half) == pytest.approx(4.1, abs=EPS)
  assert paid(file, GOLD, wrong) == pytest.approx(3.1, abs=EPS)
  assert paid(file, GOLD, '<sql>SELECT name FROM staff WHERE(id=3)</sql>', judge=scripted()) == pytest.approx(6.1, abs=EPS)   # nobody asked
  assert paid(file, GOLD, f'<sql> {GOLD} </sql>') == pytest.approx(7., abs=EPS)


def test_each_term(file):
  only = lambda *texts, gold=GOLD, **kw: paid(file, gold, *texts, **{**dict.fromkeys(
      ('execution', 'judged', 'schema', 'bigrams', 'syntax', 'form'), 0.), **kw})
  assert only(f'<sql>{GOLD}</sql>', execution=1.) == 1. and only('<sql>SELECT 1</sql>', execution=1.) == 0.
  none = 'SELECT name FROM staff WHERE age > 90'
  assert only(f'<sql>{none}</sql>', gold=none, execution=1., syntax=.5) == .5                  # no rows: not right, though equal
  assert only('<sql>SELECT nosuch FROM staff</sql>', execution=1., syntax=1.) == 0.
  assert only('<sql>DROP TABLE staff</sql>', execution=1., syntax=1.) == 0.
  assert only('<sql>SELECT Age FROM nosuch</sql>', schema=1.) == pytest.approx(1 / 3, abs=EPS)       # it need not run
  assert only('<sql>SELECT Age FROM nosuch</sql>', schema=1., links='words') == pytest.approx(3 / 8, abs=EPS)
  assert only('<sql>select name FROM staff</sql>', bigrams=1.) == pytest.approx(2 / 5, abs=EPS)      # case counts
  assert only('<sql>SELECT</sql>', bigrams=1., schema=1.) == 0.
  assert only('<sql>SELECT 1</sql>', form=1.) == 1. and only('x', '<sql>SELECT 1</sql>', form=1.) == 0.
  assert only('think <sql>SELECT 1</sql>', form=1., pattern='think .*') == 1.


def test_which_query(file):
  right, other = f'<sql>{GOLD}</sql>', '<generate_sql>SELECT 1</generate_sql>'
  top = paid(file, GOLD, right)
  assert paid(file, GOLD, other, right) == paid(file, GOLD, right, '<answer>ok</answer>') == top > paid(file, GOLD, right, other)
  assert paid(file, GOLD, '<answer>ok</answer>') == 1. and paid(file, GOLD, 'nothing') == 0.
  assert paid(file, GOLD, '<q>x</q>', judge=scripted(otherwise='1')) == 1.                     # no query: nobody is asked
  assert paid(file, GOLD, f'<q>{GOLD}</q>', tags=('q',)) == top


def test_twin(file):
  """Without spaces to fold or names to know: sets by hand."""
  tried = ['SELECT id FROM towns', 'SELECT name , age FROM staff', 'SELECT name FROM staff WHERE age > 40', 'SELECT town FROM staff']
  gold = tried[2]
  def jac(a, b):
    return len([x for x in a if x in b]) / (len(b) + len([x for x in a if x not in b]) + 1e-4)
  known = ('staff', 'towns', 'id', 'name', 'age', 'town')
  for q in tried:
    a, b = q.split(), gold.split()
    names = [[w for w in known if w in x] for x in (a, b)]
    grams = [sorted({f'{x[i]} {x[i + 1]}' for i in range(len(x) - 1)}) for x in (a, b)]
    want = 3. * (q == gold) + jac(*names) + jac(*grams) + (q != tried[3]) + 1.
    assert paid(file, gold, f'<sql>{q}</sql>') == pytest.approx(want)


def test_the_judge(file):
  wrong = '<sql>SELECT 1</sql>'
  at = lambda answer: paid(file, GOLD, wrong, judge=scripted(otherwise=answer))
  base = paid(file, GOLD, wrong)
  assert at('0') == base and at('**1.0**') == base + 2 and at('7\nno:\n.25') == pytest.approx(base + .5)
  for nonsense in (None, '', 'good', '-0.5', '1.5', '0.5 out of 1', '5/10', '1e-1', 'nan'):
    assert at(nonsense) is None, nonsense
  heard = []
  async def judge(prompt):
    heard.append(prompt)
    return '1'
  paid(file, GOLD, wrong, judge=judge)
  assert 'Task:\nobs\n' in heard[0] and GOLD in heard[0] and heard[0].count('SELECT 1') == 1


def test_reading():
  assert score('0.123456789') == .123456789 and score('1\n2') is None and score('9' * 100_000) is None


def test_faults(file):
  slow = '<sql>WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT( * ) FROM c</sql>'
  assert paid(file, GOLD, slow) == pytest.approx(1., abs=.2) and paid(file, GOLD, slow, seconds=0., vm_steps=10**9) is None
  with pytest.raises(ValueError, match="links is 'names' or 'words', not 'all'"):
    paid(file, GOLD, 'x', links='all')
  with pytest.raises(ValueError, match='needs tasks whose data has `path` and `sql`; task t has dict'):
    sql_partial(Episode(Task('t', {}), [], []))
  with pytest.raises(ValueError, match='gold query .* does not run'):
    paid(file, 'SELECT nosuch', '<sql>SELECT 1</sql>')
