"""ReEx-SQL's composite reward on a real file: each term, sums by hand, limits."""

import contextlib
import sqlite3

import pytest

from rlx.envs.sql import Question
from rlx.rewards.reex_sql import normal, reex_sql
from rlx.types import Episode, Node, Task

GOLD = "SELECT name FROM staff WHERE town = 'New  York'"
TRY = '<intermediate_sql>{}</intermediate_sql>'


@pytest.fixture(scope='module')
def file(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('sql') / 'a.sqlite')
  with contextlib.closing(sqlite3.connect(path)) as con:
    con.execute('CREATE TABLE staff (id INTEGER, name TEXT, town TEXT)')
    con.execute('CREATE TABLE towns (id INTEGER, town TEXT)')
    con.executemany('INSERT INTO staff VALUES (?, ?, ?)', [(1, 'anna', 'Rome'), (2, 'bob', 'New  York')])
    con.execute("INSERT INTO towns VALUES (1, 'Rome')")
    con.commit()
  return path


def paid(path, *texts, gold=GOLD, **kw):
  nodes = [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  got = reex_sql(Episode(Task('t', Question(path, 'a', 'q', gold)), nodes, range(len(nodes))), **kw)
  assert set(got) == {'reex'} and got['reex'][:-1] == [0.] * (len(texts) - 1)
  return got['reex'][-1]


def test_by_hand(file):
  look, right = TRY.format('SELECT town FROM staff'), f'<sql>{GOLD}</sql>'
  assert paid(file, look, right) == 2 + 3 + 1 + 1 + 2 == 9
  assert paid(file, right) == 7                                                    # it did not look
  assert paid(file, look, '<sql>SELECT name FROM staff WHERE id = 2</sql>') == 2 + 3 + 2
  assert paid(file, look, "<sql>SELECT s.name FROM staff AS s WHERE s.town = 'Rome'</sql>") == 2 + 1 + 2
  assert paid(file, look) == 2 + 2 and paid(file, 'hm') == 0                       # no answer
  assert paid(file, f'so {look}', right) == 7                                      # out of form
  assert paid(file, '<sql>SELECT nosuch</sql>') == 2


def test_exploring(file):
  """Useful: has rows, from a table of the gold query, not tried before."""
  only = lambda *tries, **kw: paid(file, *map(TRY.format, tries), f'<sql>{GOLD}</sql>', **{**dict(
      form=0., execution=0., exact=0., entities=0.), **kw})
  town, many = 'SELECT town FROM staff', [f'SELECT id FROM staff LIMIT {i}' for i in range(1, 13)]
  assert only() == 0 and only(town) == 2 and only(town, 'SELECT id FROM towns') == 1
  assert only(town, 'SELECT  TOWN from staff;') == 1 and only(town, 'SELECT id FROM staff WHERE id > 9') == 1
  assert only('SELECT nosuch FROM staff') == 0 and only('DELETE FROM staff') == 0 and only('SELECT 1') == 0
  assert only(*many) == 2 and only('SELECT 1', *many) == pytest.approx(2 * 9 / 10) and only('SELECT 1', town, calls=1) == 0
  assert only('SELECT COUNT( * ) FROM towns, staff', exploration=1.) == 1


def test_queries_of_the_same_tag(file):
  a, b = '<sql>SELECT town FROM staff</sql>', f'<sql>{GOLD}</sql>'
  assert paid(file, a, b, intermediate=None) == 9 and paid(file, a, b) == 7 and paid(file, b, intermediate=None) == 7
  assert paid(file, f'<q>{GOLD}</q>', tags=('q',)) == 7


@pytest.mark.parametrize('sql, same', [
    (GOLD, True), ("select NAME\n from staff  where town = 'New  York' ;", True), ("SELECT name FROM staff WHERE town = 'New York'", False),
    ("SELECT name FROM staff WHERE town = 'new  york'", False)])
def test_the_same_text(sql, same):
  assert (normal(sql) == normal(GOLD)) is same


def test_limits(file):
  slow = 'WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT( * ) FROM c'
  assert paid(file, f'<sql>{slow}</sql>') == 2 and paid(file, TRY.format(slow)) == 2
  for text in (f'<sql>{slow}</sql>', TRY.format(slow)):
    assert paid(file, text, seconds=0., vm_steps=10**9) is None
  with pytest.raises(ValueError, match='needs tasks whose data has `path` and `sql`; task t has dict'):
    reex_sql(Episode(Task('t', {}), [], []))
