"""TaTToo's grounded verdicts (arXiv:2510.06217) with a scripted judge and real SQLite."""

import asyncio
import sqlite3
from typing import NamedTuple

import pytest

from rlx.envs import sql_sandbox
from rlx.judges.scripted import scripted
from rlx.rewards import tattoo as module
from rlx.rewards.tattoo import tattoo
from rlx.types import Episode, Node, Task


class Data(NamedTuple):
  path: str


@pytest.fixture
def data(tmp_path):
  path = str(tmp_path / 'towns.sqlite')
  with sqlite3.connect(path) as con:
    con.execute('CREATE TABLE town (name TEXT, people INTEGER)')
    con.executemany('INSERT INTO town VALUES (?, ?)', [('Ulm', 126), ('Bonn', 336)])
  con.close()
  return Data(path)


def episode(data, *texts):
  nodes = [Node(i - 1, 'Which town is larger?' * (not i), [], i == 0, t, [], None, None, {}) for i, t in enumerate(texts)]
  return Episode(Task('t', data), nodes, range(len(texts)))


def paid(data, texts, judge, **kw):
  return asyncio.run(tattoo(episode(data, *texts), judge=judge, **kw))['tattoo']


# what the judge asks the table, and what it makes of the rows
RULES = {
    'step to check:\nUlm has': '<sql> SELECT people FROM town WHERE name = "Ulm" </sql>',
    'step to check:\nBonn has': '<sql> SELECT people FROM towns </sql>',
    'step to check:\nSo': 'No query',
    'step to judge:\nUlm has 126.*It gave:\n\\(126,\\)\n': 'It says so.\nVerdict: right',
    'step to judge:\nUlm has.*It gave:\n\\(126,\\)\n': 'Verdict: wrong',
    'step to judge:\nBonn has.*error: no such table': 'Verdict: right',
    'step to judge:\nSo Bonn': 'Verdict: right'}


def test_steps_are_checked_against_the_table(data):
  judge = scripted(rules=RULES)
  assert paid(data, ['Ulm has 126', 'Bonn has 336', 'So Bonn'], judge) == [1., .5, 1.]
  assert paid(data, ['Ulm has 99'], judge) == [0.] and paid(data, ['Bonn has 1'], judge, ungrounded=0.) == [0.]


def test_what_the_judge_is_shown(data):
  asked = []
  async def judge(prompt, *, sample=0):
    asked.append(prompt)
    return '<sql>SELECT name FROM town ORDER BY name</sql>' if len(asked) == 1 else 'Verdict: right'
  assert paid(data, ['one'], judge) == [1.]
  first, second = asked
  assert 'town (name, people)' in first and 'Which town is larger?' in first and '(none)' in first and 'It gave' not in first
  assert 'It gave:\n(\'Bonn\',)\n(\'Ulm\',)\n' in second and 'SELECT name FROM town ORDER BY name' in second
  asked.clear()
  paid(data, ['one', 'two'], judge)
  assert any('Step 1: one' in p and 'judge:\ntwo' in p for p in asked)


def test_an_empty_result_is_a_result(data):
  judge = scripted(rules={'to check': '<SQL>SELECT name FROM town WHERE people > 999</SQL>', 'It gave:\nno rows\n': 'Verdict: right'})
  assert paid(data, ['none is that large'], judge) == [1.]


def test_a_judge_that_says_nothing_or_nonsense(data):
  assert paid(data, 'ab', scripted()) == [None, None]
  assert paid(data, 'a', scripted(otherwise='I would say right')) == [None]
  assert paid(data, 'a', scripted(rules={'to check': None}, otherwise='Verdict: right')) == [None], 'the tool was not decided on'


def test_a_query_that_takes_too_long_is_nobodys_fault(data, monkeypatch):
  monkeypatch.setattr(sql_sandbox, 'execute', lambda *a, **kw: sql_sandbox.Result(None, 'gave up', 'time'))
  assert paid(data, ['Ulm has 126'], scripted(rules=RULES)) == [None]


def test_the_table_cannot_be_changed(data):
  judge = scripted(rules={'to check': '<sql> DELETE FROM town </sql>', 'It gave:\nerror': 'Verdict: right'})
  assert paid(data, ['x'], judge) == [.5]
  with sqlite3.connect(data.path) as con:
    assert con.execute('SELECT COUNT(*) FROM town').fetchone() == (2,)
  con.close()


def test_what_it_says():
  assert tattoo.grain == 'episode' and module.writes == ('reward/tattoo', 'judged/tattoo')
  with pytest.raises(ValueError, match='needs tasks whose data has `path`; task t has dict'):
    paid({}, 'a', scripted())
