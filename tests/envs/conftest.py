"""Environments the tests of this folder share."""

import contextlib
import sqlite3

import pytest

from rlx.envs.sql import Question, sql
from rlx.types import Task


@pytest.fixture(scope='session')
def root(tmp_path_factory):
  return str(tmp_path_factory.mktemp('sql'))


@pytest.fixture(scope='session')
def hidden(root):
  return sql(root=root)


@pytest.fixture(scope='session')
def four(root):
  return sql(world='four_acts', root=root, train_databases=24, held_databases=8, questions=4000)


@pytest.fixture(scope='session')
def envs(hidden, four):
  return dict(hidden_names=hidden, four_acts=four)


@pytest.fixture
def shop(tmp_path):
  """A question of one's own on a file of one's own, in the form of the first world."""
  path = tmp_path / 'own.sqlite'
  rows = [(1, 'raven', 'rome', 20), (2, 'iris', 'oslo', 35), (3, 'moss', 'rome', 50)]
  with contextlib.closing(sqlite3.connect(path)) as con:
    con.execute('CREATE TABLE goods (id INTEGER PRIMARY KEY, title TEXT, town TEXT, cost INTEGER)')
    con.executemany('INSERT INTO goods VALUES (?, ?, ?, ?)', rows)
    con.execute('CREATE TABLE staff (id INTEGER PRIMARY KEY, "odd name" TEXT)')
    con.commit()
  text, gold = "list the name of products with city 'rome'", "SELECT title FROM goods WHERE town = 'rome'"
  return Task('own/0', Question(str(path), 'db7', text, gold))
