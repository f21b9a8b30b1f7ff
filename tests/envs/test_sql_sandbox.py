"""The sandbox: every attack ends fast with a plain error and an unchanged file; limits are the same each time."""

import concurrent.futures
import contextlib
import hashlib
import pathlib
import sqlite3
import subprocess
import sys
import time

import pytest

from rlx.envs import sql_sandbox
from rlx.envs.sql_sandbox import agree, execute, ordered, schema


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  file = tmp_path_factory.mktemp('sandbox dir') / 'a b#?%.sqlite'   # signs that mean something in a URI
  with contextlib.closing(sqlite3.connect(file)) as con:
    con.execute('CREATE TABLE u (k INTEGER PRIMARY KEY)')
    con.execute('CREATE TABLE t (id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c BLOB, u_id INTEGER REFERENCES u (k))')
    con.executemany('INSERT INTO t VALUES (?, ?, ?, ?, NULL)', [(i, i % 7, f'n{i}', bytes([i, 255])) for i in range(30)])
    con.commit()
  return str(file)


COUNTER = 'WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) '
ATTACKS = {
    'endless recursion': (COUNTER + 'SELECT COUNT(*) FROM c', 'steps'),
    'endless rows': (COUNTER + 'SELECT n FROM c', 'size'),
    'doubling text': ("WITH RECURSIVE c(s) AS (SELECT 'a' UNION ALL SELECT s || s FROM c) SELECT MAX(LENGTH(s)) FROM c", 'error'),
    'sorting long text': (f"WITH RECURSIVE c(n, s) AS (SELECT 1, '{'a' * 3000}' UNION ALL SELECT n + 1, s FROM c) "
                          'SELECT n FROM c ORDER BY s || n', 'steps'),
    'slow search': (COUNTER + f"SELECT SUM(INSTR('{'a' * 1500}', '{'a' * 1400}b' || n)) FROM c", 'steps'),
    'slow pattern': (COUNTER + f"SELECT SUM('{'a' * 3000}' LIKE '{'%a' * 45}%b' || n) FROM c", 'steps'),
    'long pattern': (f"SELECT 'a' LIKE '{'%a' * 500}'", 'error'),
    'big random blob': ('SELECT randomblob(1000000000)', 'error'),
    'big zero blob': ('SELECT zeroblob(1000000000)', 'error'),
    'wide printf': ("SELECT printf('%1000000000d', 1)", 'error'),
    'growing replace': (f"SELECT replace(replace('{'a' * 100}', 'a', '{'b' * 90}'), 'b', '{'c' * 90}')", 'error'),
    'cross join': ('SELECT COUNT(*) FROM t a, t b, t c, t d, t e, t f', 'steps'),
    'cross join of rows': ('SELECT a.id FROM t a, t b, t c', 'size'),
    'concat': ('SELECT group_concat(b || b || b || b) FROM (SELECT a.b FROM t a, t b)', 'error'),
    'concat bomb': ('SELECT group_concat(a.b || b.b || c.b) FROM t a, t b, t c, t d', 'steps'),
    'attach': ("ATTACH 'other.sqlite' AS o", 'error'),
    'pragma': ('PRAGMA table_info(t)', 'error'),
    'pragma as table': ("SELECT name FROM pragma_table_info('t')", 'error'),
    'pragma counted': ("SELECT COUNT(*) FROM pragma_table_info('t')", 'error'),
    'master': ('SELECT sql FROM sqlite_master', 'error'),
    'master counted': ('SELECT COUNT(*) FROM sqlite_schema', 'error'),
    'temp master': ('SELECT * FROM temp.sqlite_master', 'error'),
    'json table': ("SELECT value FROM json_each('[1, 2]')", 'error'),
    'extension': ("SELECT load_extension('x')", 'error'),
    'tokenizer': ("SELECT fts3_tokenizer('simple')", 'error'),
    'two statements': ('SELECT 1; SELECT 2', 'error'),
    'hidden delete': ('SELECT 1; DELETE FROM t', 'error'),
    'delete': ('DELETE FROM t', 'error'),
    'delete behind WITH': ('WITH x AS (SELECT 1) DELETE FROM t', 'error'),
    'insert behind WITH': ('WITH x AS (SELECT 1) INSERT INTO t (a) SELECT 1 FROM x', 'error'),
    'update': ('UPDATE t SET a = 0', 'error'),
    'create': ('CREATE TEMP TABLE x (a)', 'error'),
    'drop': ('DROP TABLE t', 'error'),
    'vacuum into': ("VACUUM INTO 'stolen.sqlite'", 'error'),
    'transaction': ('BEGIN EXCLUSIVE', 'error'),
    'explain': ('EXPLAIN SELECT 1', 'error'),
    'empty': ('', 'error'),
    'comment only': ('-- nothing', 'error'),
    'open comment': ('/* nothing', 'error'),
    'comments to backtrack in': ('/**/' * 900 + 'x', 'error'),
    'NUL byte': ('SELECT 1\0', 'error'),
    'lone surrogate': ("SELECT '\ud800'", 'error'),
    'a megabyte': ('SELECT ' + '1 + ' * 250_000 + '1', 'size'),
    'deep brackets': ('SELECT ' + '(' * 1000 + '1' + ')' * 1000, 'error'),
    'deep sum': ('SELECT ' + ' + '.join(['1'] * 900), 'error'),
    'deep subqueries': ('SELECT * FROM ' + '(SELECT * FROM ' * 150 + 't' + ')' * 150, 'error'),
    'many tables': ('SELECT COUNT(*) FROM ' + ', '.join(f't t{i}' for i in range(64)), 'steps'),
    'many columns': ('SELECT ' + ', '.join(['1'] * 300), 'error'),
    'many unions': (' UNION ALL '.join(['SELECT 1'] * 100), 'error'),
    'overflow': ('SELECT ABS(-9223372036854775808)', 'error'),
    'the clock': ("SELECT DATE('now')", 'error'),
    'the clock, spelt': ("SELECT STRFTIME('%s', 'N' || 'ow')", 'error'),
    'the clock, left out': ("SELECT STRFTIME('%s')", 'error'),
    'the clock, as a word': ('SELECT CURRENT_TIMESTAMP', 'error'),
    'chance': ('SELECT RANDOM()', 'error'),
    'order by chance': ('SELECT id FROM t ORDER BY RANDOM()', 'error'),
    'no column': ('SELECT nosuch FROM t', 'error'),
    'no table': ('SELECT a FROM nosuch', 'error'),
}


@pytest.mark.parametrize('name', ATTACKS)
def test_attack(path, name, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  sql, ended_by = ATTACKS[name]
  before = hashlib.sha256(pathlib.Path(path).read_bytes()).digest()
  start = time.monotonic()
  result = execute(path, sql)
  assert time.monotonic() - start < 2.
  assert result.rows is None
  assert isinstance(result.error, str) and result.error and len(result.error) < 300
  assert result.ended_by == ended_by
  assert hashlib.sha256(pathlib.Path(path).read_bytes()).digest() == before
  assert sorted(p.name for p in pathlib.Path(path).parent.iterdir()) == [pathlib.Path(path).name] and not list(tmp_path.iterdir())
  assert execute(path, 'SELECT COUNT(*) FROM t').rows == ((30,),)   # the connection is still good


@pytest.mark.parametrize('sql, rows', [
    ('SELECT a, COUNT( * ) FROM t GROUP BY a ORDER BY a LIMIT 2', ((0, 5), (1, 5))),
    (COUNTER + 'SELECT SUM(n) FROM (SELECT n FROM c LIMIT 10)', ((55,),)),
    ('WITH c AS (SELECT 1) SELECT COUNT(*) FROM c', ((1,),)),
    ('SELECT COUNT(*) FROM (SELECT 1)', ((1,),)),
    ('SELECT ROW_NUMBER() OVER (ORDER BY id) FROM t LIMIT 1', ((1,),)),
    ("SELECT STRFTIME('%Y', '2020-02-03'), DATE('2020-02-30', '+1 day'), DATE(NULL)", (('2020', '2020-03-02', None),)),
    ('SELECT c, 1.5, NULL FROM t LIMIT 1', ((b'\x00\xff', 1.5, None),)),
    ("SELECT CAST(x'ff41' AS TEXT)", (('\ufffdA',),)),
    ('VALUES (1), (2)', ((1,), (2,))),
    ('-- first\n/* second */ select 1;', ((1,),)),
    ("SELECT 'x' FROM t WHERE id < 0", ()),
])
def test_what_runs(path, sql, rows):
  assert execute(path, sql) == sql_sandbox.Result(rows)


def test_limits_are_exact(path):
  assert len(execute(path, 'SELECT id FROM t', max_rows=30).rows) == 30
  assert execute(path, 'SELECT id FROM t', max_rows=29).ended_by == 'size'
  assert execute(path, "SELECT 'abcd', 1", max_bytes=12).rows == (('abcd', 1),)
  assert execute(path, "SELECT 'abcd', 1", max_bytes=11).ended_by == 'size'


def _enough(path, sql):
  """The smallest limit of steps a query runs under."""
  return next(n for n in range(100, 10_000, 100) if execute(path, sql, vm_steps=n).rows is not None)


def test_steps_do_not_depend_on_the_connection(path):
  sql = 'SELECT COUNT(*) FROM t x, t y WHERE x.a < y.a'
  least = _enough(path, sql)
  assert least > 1000
  for _ in range(2):   # on a fresh connection, and on the one left behind
    sql_sandbox._run.cache_clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
      assert pool.submit(_enough, path, sql).result() == least
    sql_sandbox._run.cache_clear()
    assert _enough(path, sql) == least


def test_wall_clock_is_a_backstop_and_not_remembered(path):
  slow = COUNTER + 'SELECT COUNT(*) FROM c'
  assert execute(path, slow, seconds=0., vm_steps=10**9).ended_by == 'time'
  sql = 'SELECT COUNT(*) FROM t x, t y, t z'
  assert execute(path, sql, seconds=0.).ended_by == 'time'
  assert execute(path, sql).rows == ((27_000,),)
  assert agree(path, 'SELECT 1', sql, seconds=0.) is None


def test_answers_are_remembered(path):
  execute(path, 'SELECT 12345')
  hits = sql_sandbox._run.cache_info().hits
  assert execute(path, 'SELECT 12345').rows == ((12345,),)
  assert sql_sandbox._run.cache_info().hits == hits + 1


def test_threads_have_their_own_connections(path):
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    queries = [f'SELECT COUNT(*) + {i} FROM t' for i in range(64)]
    assert list(pool.map(lambda q: execute(path, q).rows[0][0], queries)) == [30 + i for i in range(64)]


FORK = '''
import os, sys, threading
from rlx.envs import sql_sandbox
def fork():
  sql_sandbox.execute(sys.argv[1], 'SELECT 1')
  if (child := os.fork()) == 0:
    print(len(sql_sandbox._local.__dict__), sql_sandbox.execute(sys.argv[1], 'SELECT 77').rows, flush=True)
    os._exit(0)
  os.waitpid(child, 0)
fork()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
'''


def test_a_fork_opens_its_own_connections(path):
  told = subprocess.run([sys.executable, '-c', FORK, path], capture_output=True, text=True, check=True).stdout
  assert told.split('\n') == ['0 ((77,),)'] * 2 + ['']


def test_open_files_are_bounded(path, tmp_path, monkeypatch):
  monkeypatch.setattr(sql_sandbox, 'CONNECTIONS', 3)
  for i in range(6):
    copy = tmp_path / f'{i}.sqlite'
    copy.write_bytes(pathlib.Path(path).read_bytes())
    assert execute(str(copy), 'SELECT COUNT(*) FROM t').rows == ((30,),)
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    def count():
      for i in range(6):
        execute(str(tmp_path / f'{i}.sqlite'), 'SELECT COUNT(*) + 1 FROM t')
      return len(sql_sandbox._local.open)
    assert pool.submit(count).result() == 3


def test_missing_file_is_no_fault_of_the_query(tmp_path):
  with pytest.raises(FileNotFoundError, match='no SQLite database'):
    execute(str(tmp_path / 'none.sqlite'), 'SELECT 1')
  assert not list(tmp_path.iterdir())


def test_schema(path):
  u, t = schema(path)
  assert u.name == 'u' and u.columns == ('k',)
  assert t.columns == ('id', 'a', 'b', 'c', 'u_id') and t.types == ('INTEGER', 'INTEGER', 'TEXT', 'BLOB', 'INTEGER')
  assert t.refers == (None, None, None, None, 'u . k') and (u.primary, t.primary) == (('k',), ('id',))


def test_long_results_are_not_kept_in_memory(path, monkeypatch):
  kept = lambda sql: (execute(path, sql), sql_sandbox._run.cache_info().hits, execute(path, sql), sql_sandbox._run.cache_info().hits)
  monkeypatch.setattr(sql_sandbox, 'REMEMBERED', 8 * 30)
  first, before, second, after = kept('SELECT id + 7 FROM t')
  assert first == second and after == before + 1
  first, before, second, after = kept('SELECT id + 7, 1 FROM t')
  assert first == second and len(first.rows) == 30 and after == before


@pytest.mark.parametrize('sql, gold, right', [
    ('SELECT id FROM t WHERE id < 3 ORDER BY id DESC', 'SELECT id FROM t WHERE id < 3', True),          # order is free
    ('SELECT id FROM t WHERE id < 3 ORDER BY id DESC', 'SELECT id FROM t WHERE id < 3 ORDER BY id', False),
    ('SELECT id FROM t WHERE id IN (0, 1, 2)', 'SELECT id FROM t WHERE id < 3 ORDER BY id', True),
    ('SELECT DISTINCT a FROM t', 'SELECT a FROM t', False),                                             # a multiset, not a set
    ('SELECT a FROM t UNION ALL SELECT 1 LIMIT 30', 'SELECT a FROM t', True),
    ('SELECT a FROM t WHERE id < 7 UNION ALL SELECT 0', 'SELECT a FROM t WHERE id < 7 UNION ALL SELECT 1', False),
    ('SELECT 1.0', 'SELECT 1', True),
    ('SELECT 0.1 + 0.2', 'SELECT 0.3', True),                                                           # but for rounding
    ('SELECT 0.3001', 'SELECT 0.3', False),
    ('SELECT NULL', 'SELECT NULL', True),
    ("SELECT '1'", 'SELECT 1', False),
    ('SELECT 1, 2', 'SELECT 2, 1', False),
    ('SELECT 1 WHERE 0', 'SELECT a FROM t WHERE id > 99', True),
    ('SELECT nosuch', 'SELECT 1', False),
])
def test_agree(path, sql, gold, right):
  assert agree(path, sql, gold) is right


def test_a_gold_query_must_run(path):
  with pytest.raises(ValueError, match='gold query .* does not run .no such column: nosuch'):
    agree(path, 'SELECT 1', 'SELECT nosuch FROM t')


def test_ordered():
  assert ordered('select a from t order   by a limit 1')
  assert not ordered("SELECT a FROM t WHERE b = 'order by'")
  assert not ordered('SELECT a FROM (SELECT a FROM t ORDER BY (a + 1) LIMIT 3)')
