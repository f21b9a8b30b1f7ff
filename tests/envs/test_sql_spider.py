"""Spider's layout: a tiny one made here, and every gold query of the real one where it is at hand."""

import contextlib
import json
import lzma
import pathlib
import pickle
import random
import sqlite3
import tarfile
import time

import pytest
from sql_play import accuracy, expert, play

from rlx.envs import _sql_layout, _sql_spider, sql_sandbox
from rlx.envs.sql import sql
from rlx.types import Action

DEV = [
    ('shop 1', 'How many items are red?', "SELECT COUNT(*) FROM \"order items\" WHERE Color = 'red'"),
    ('shop 1', 'Names from the dearest on?', 'SELECT "Full Name" FROM "order items" ORDER BY price DESC'),
    ('shop 1', 'Which names are not in ASCII?', "SELECT \"Full Name\" FROM \"order items\" WHERE Color LIKE \"gr%\""),
]
TRAIN = [('clubs', f'Question {i}?', f'SELECT name FROM member WHERE club_id > {i}') for i in range(60)]
OTHERS = [('clubs', 'Who is in no club?', 'SELECT name FROM member WHERE club_id IS NULL'),
          ('clubs', 'Which clubs have members?', 'SELECT DISTINCT T1.title FROM club AS T1 JOIN member AS T2 ON T1.id = T2.club_id')]


def rows(questions):
  return json.dumps([dict(db_id=d, question=q, query=s, query_toks=s.split()) for d, q, s in questions])


def database(folder, name, script):
  folder = folder / 'database' / name
  folder.mkdir(parents=True)
  with contextlib.closing(sqlite3.connect(folder / f'{name}.sqlite')) as con:
    con.executescript(script)


def layout(root):
  root.mkdir(parents=True, exist_ok=True)
  for name, questions in (('dev', DEV), ('train_spider', TRAIN), ('train_others', OTHERS)):
    (root / f'{name}.json').write_text(rows(questions), encoding='utf-8')
  database(root, 'shop 1', """
      CREATE TABLE "order items" ("Full Name" TEXT, Color varchar(9), price REAL, "order" INTEGER, "50%" INT);
      INSERT INTO "order items" VALUES (CAST(x'636166e9' AS TEXT), 'red', 2.5, 1, NULL), ('<b>', 'red', NULL, 2, 3), ('x', 'green', 7, NULL, 3);
      CREATE VIEW cheap AS SELECT * FROM "order items" WHERE price < 3;""")
  database(root, 'clubs', """
      CREATE TABLE club (id INTEGER, title TEXT);
      CREATE TABLE member (member_id INTEGER, name TEXT, club_id INTEGER);
      CREATE TABLE link (a INTEGER REFERENCES pair, b INTEGER, PRIMARY KEY (a, b));
      CREATE TABLE pair (key INTEGER PRIMARY KEY);
      INSERT INTO club VALUES (1, 'go'), (2, 'chess');
      INSERT INTO member VALUES (1, 'ann', 1), (2, 'bob', NULL), (3, 'cid', 70);""")
  (root / 'tables.json').write_text(json.dumps([dict(
      db_id='clubs', table_names_original=['club', 'member'],
      column_names_original=[[-1, '*'], [0, 'id'], [0, 'title'], [1, 'member_id'], [1, 'name'], [1, 'club_id']],
      primary_keys=[1, [3]], foreign_keys=[[5, 1]])]), encoding='utf-8')
  return str(root)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return layout(tmp_path_factory.mktemp('spider'))


@pytest.fixture(scope='module')
def env(path):
  return sql(path=path)


@pytest.fixture(scope='module')
def single(path):
  return sql(path=path, protocol='single')


# ---- layout --------------------------------------------------------------------------------------------------------

def test_splits(env):
  """dev in its order; a gold query with all its questions is on one side of the cut, whose share is a twentieth."""
  assert [t.data.text for t in env.tasks('dev')] == [q for _, q, _ in DEV] and env.world == 'spider'
  assert [t.id for t in env.tasks('dev')] == ['spider/dev/0', 'spider/dev/1', 'spider/dev/2']
  assert list(env.tasks('held_out_databases')) == list(env.tasks('dev'))
  everything = [t.data.sql for t in env.tasks('train_all')]
  assert everything == [s for *_, s in TRAIN + OTHERS]
  train, kept = ([t.id for t in env.tasks(s)] for s in ('train', 'held_out_questions'))
  assert sorted(train + kept, key=lambda i: int(i.split('/')[-1])) == [t.id for t in env.tasks('train_all')]
  assert 0 < len(kept) < 10 and train == sorted(train, key=lambda i: int(i.split('/')[-1]))
  assert env.tasks('dev')[-1].id == 'spider/dev/2' and len(env.tasks('dev')[1:]) == 2
  with pytest.raises(IndexError, match='question 3'):
    env.tasks('dev')[3]
  with pytest.raises(ValueError, match="split 'test' is not one of"):
    env.tasks('test')
  with pytest.raises(ValueError, match="split 'dev' is not one of .*give a path to Spider"):
    sql().tasks('dev')


def test_a_value_that_pickles(env, single):
  for one in (env, single):
    again = pickle.loads(pickle.dumps(one))
    assert again == one and list(again.tasks('train')) == list(one.tasks('train'))


@pytest.mark.parametrize('file, text, message', [
    ('dev.json', None, r"dev.json' does not exist: path must hold Spider's layout"),
    ('train_spider.json', None, r"train_spider.json' does not exist"),
    ('dev.json', '{', r"dev.json' cannot be read"), ('dev.json', '{}', "dev.json' is not a list of questions"),
    ('dev.json', '[]', "dev.json' holds no question"),
    ('dev.json', '[{"db_id": "clubs", "question": "?"}]', "question 0 of .*dev.json' must have db_id, question and query; it has"),
    ('train_others.json', '[{"db_id": "zoo", "question": "?", "query": "SELECT 1"}]',
     "zoo.sqlite' does not exist, and questions of database 'zoo' need it"),
    ('database/clubs/clubs.sqlite', 'version https://git-lfs', "clubs.sqlite' is not a SQLite database"),
    ('tables.json', '[{"db_id": "clubs", "table_names_original": []}]', "tables.json' does not describe database 'clubs' as Spider does"),
])
def test_what_is_wrong_with_a_layout_is_said(tmp_path, file, text, message):
  root = layout(tmp_path / 'spider')
  place = pathlib.Path(root) / file
  place.unlink()
  if text is not None:
    place.write_text(text)
  with pytest.raises(ValueError, match=message) as e:
    sql(path=root)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('wrong, message', [
    (dict(path='/nowhere'), "there is no folder '/nowhere'"), (dict(world='spider'), "world 'spider' needs a path"),
    (dict(protocol='one'), "protocol is 'multi' or 'single', not 'one'"), (dict(path=3), 'path is a folder, not 3'),
    (dict(path='/nowhere', world='hidden_names'), "path is for world 'spider'"),
    (dict(protocol='single', mix=dict(retry=1.)), "has no experts .'retry'"),
])
def test_bad_arguments(wrong, message):
  with pytest.raises(ValueError, match=message):
    sql(**wrong)


def test_limits_are_the_worlds_unless_given(path):
  assert sql().limits == dict(max_rows=200, max_bytes=16_384, vm_steps=100_000, seconds=5.)
  assert sql(path=path).limits == dict(max_rows=50_000, max_bytes=1 << 20, vm_steps=100_000_000, seconds=30.)
  assert sql(path=path, max_rows=7).limits['max_rows'] == 7


# ---- protocols -----------------------------------------------------------------------------------------------------

def test_an_episode_by_hand(env):
  task = env.tasks('dev')[2]
  first, states, _, steps = play(env, task, [
      'Let me look.\n<explore> tables </explore>', '<explore>"Order Items"</explore>', '<explore> order items . color </explore>',
      '<explore> nothing </explore>', 'I have no idea', '<sql> SELECT * FROM "order items" </sql>', '<sql>```sql\n' + DEV[2][2] + ';\n```</sql>',
      '<answer> ok </answer>'])
  assert first.text == f'{_sql_spider.INSTRUCTION}\n\nDatabase: shop 1\nQuestion: Which names are not in ASCII?'
  assert [s.obs for s in steps] == [
      '<obs> tables order items </obs>', '<obs> columns Full Name TEXT , Color varchar(9) , price REAL , order INTEGER , 50% INT </obs>',
      '<obs> values red , green </obs>', '<obs> error no such table </obs>', '<obs> error no action </obs>',
      '<obs> ok 3 rows : caf\ufffd , red , 2.5 , 1 , NULL ; (b> , red , NULL , 2 , 3 ; x , green , 7.0 , NULL , 3 </obs>',
      '<obs> ok 1 rows : x </obs>', '']
  assert [s.end for s in steps] == [0] * 7 + [1] and steps[-1].reward == {'task': 1.} and states[-1].sql == DEV[2][2]
  assert [s.metrics['valid'] for s in steps] == [1.] * 4 + [0.] + [1.] * 3 and steps[-1].metrics['runs'] == 1.
  assert [s.label['schema'] for s in steps] == [1] * 4 + [0] * 4


@pytest.mark.parametrize('texts, reward, metrics', [
    (['<answer> ok </answer>'], -0.1, dict(correct=0.)),
    (['<sql> SELECT 2 </sql>', '<answer> ok </answer>'], 1., dict(correct=1., runs=1.)),
    (['<sql> SELECT 3 </sql>', '<answer> ok </answer>'], 0., dict(correct=0., runs=1.)),
    (['<sql> SELECT nothing </sql>', '<answer> ok </answer>'], 0., dict(correct=0., runs=0.)),
    (['hm'] * 8, -0.1, dict(correct=0., out_of_turns=1., valid=0.)),
])
def test_ends(env, texts, reward, metrics):
  steps = play(env, env.tasks('dev')[0], texts)[3]
  assert len(steps) == len(texts) and steps[-1].end == 1 and steps[-1].reward == {'task': reward}
  assert {k: steps[-1].metrics.get(k) for k in metrics} == metrics


def test_order_counts_where_gold_orders(env):
  ask = lambda q: play(env, env.tasks('dev')[1], [f'<sql> {q} </sql>', '<answer> ok </answer>'])[3][-1].reward['task']
  assert ask(DEV[1][2]) == 1. and ask(DEV[1][2].replace('DESC', 'ASC')) == 0.


def test_a_gold_query_that_does_not_run_fails_the_episode(env, single, caplog):
  task = env.tasks('dev')[0]
  task = task._replace(data=task.data._replace(sql='SELECT nothing'))
  for one, texts in ((env, ['<sql> SELECT 1 </sql>', '<answer> ok </answer>']), (single, ['SELECT 1'])):
    last = play(one, task, texts)[3][-1]
    assert last.end == 3 and last.reward == {} and last.metrics['gold_failed'] == 1.
  assert 'the gold query' in caplog.text


def test_single(single):
  """The schema has the keys of tables.json where the file has none, and names as SQL must write them."""
  task = single.tasks('train_all')[0]
  first = single.reset(task, 0)[1]
  assert first.text.split('\n\n')[1:] == [
      'club(id INTEGER key, title TEXT)\nmember(member_id INTEGER key, name TEXT, club_id INTEGER)\nlink(a INTEGER key, b INTEGER key)\n'
      'pair(key INTEGER key)\nmember.club_id = club.id\nlink.a = pair.key', 'Question: Question 0?']
  shop = single.tasks('dev')[0]
  assert '\n"order items"("Full Name" TEXT, Color varchar(9), price REAL, "order" INTEGER, "50%" INT)\n' in single.reset(shop, 0)[1].text
  for said, reward, valid in ((DEV[0][2], 1., 1.), (f'Sure:\n```sql\n{DEV[0][2]}\n```\nDone.', 1., 1.), ('SELECT 0', 0., 1.), ('no', -.1, 0.)):
    steps = play(single, shop, [said])[3]
    assert len(steps) == 1 and steps[0].end == 1 and steps[0].reward == {'task': reward} and steps[0].metrics['valid'] == valid
  assert {f'label/{k}' for k in [*first.label, *steps[0].label]} | {'reward/task'} == set(single.writes)


def test_single_on_made_databases(root):
  env = sql(root=root, protocol='single')
  assert accuracy(env, env.tasks('train')[:40], 'careful') == 1.
  assert env.reset(env.tasks('train')[0], 0)[1].text.count('id INTEGER key') in (2, 3)


def test_instruction(path, root):
  assert sql(path=path, instruction='').reset(sql(path=path).tasks('dev')[0], 0)[1].text.startswith('Database: shop 1\n')
  for world in ('hidden_names', 'four_acts'):
    plain, told = (sql(world=world, root=root, instruction=i) for i in (None, 'Use the tags.'))
    task = plain.tasks('train')[0]
    assert told.reset(task, 0)[1].text == 'Use the tags.\n\n' + plain.reset(task, 0)[1].text


@pytest.mark.parametrize('text, found', [
    ('SELECT 1', 'SELECT 1'), ('select 1; select 2', 'select 1'), ("It is: SELECT ';' FROM t ; so", "SELECT ';' FROM t"),
    ('```sql\nSELECT 1\n```\nor\n```sql\nSELECT 2;\n```', 'SELECT 2'), ('```sql\nSELECT 1\n```\ngives\n```\n7\n```', 'SELECT 1'),
    ('```\nSELECT 1\n```', 'SELECT 1'), ('```SELECT 1```', 'SELECT 1'), ('```sql\nSELECT 1', 'SELECT 1'), ('SELECT 1\n```', 'SELECT 1'),
    ('With this query: SELECT 1', 'SELECT 1'), ('so WITH a AS (SELECT 1) SELECT * FROM a', 'WITH a AS (SELECT 1) SELECT * FROM a'),
    ('```SQLite\nWITH RECURSIVE a(n) AS (SELECT 1) SELECT n FROM a\n```', 'WITH RECURSIVE a(n) AS (SELECT 1) SELECT n FROM a'),
    ("SELECT 'it''s", "SELECT 'it''s"), ('DROP TABLE t', None), ('', None), ('```sql\n```', None),
])
def test_the_query_in_an_answer(text, found):
  assert _sql_spider.query(text) == found


# ---- experts -------------------------------------------------------------------------------------------------------

def test_experts(env):
  join = env.tasks('train_all')[-1]
  assert play(env, join, expert(env, join, 'careful'))[2] == [
      '<explore> tables </explore>', '<explore> club </explore>', '<explore> member </explore>', f'<sql> {OTHERS[1][2]} </sql>',
      '<answer> ok </answer>']
  assert _sql_spider.guessed(join.data) == 'SELECT DISTINCT T1.title FROM club AS T1 JOIN member AS T2 ON T1.id = T2.id'
  dear = env.tasks('dev')[1].data
  assert _sql_spider.guessed(dear) == 'SELECT "name" FROM "items" ORDER BY price DESC'
  slips = {_sql_spider.slipped(dear, random.Random(i)) for i in range(400)}
  assert 'SELECT "Full Name" FROM "order items" ORDER BY price ASC' in slips and 'SELECT "Full Name" FROM "order items" ORDER BY Color DESC' in slips
  assert len(slips) == 1 + 2 * 4 and dear.sql not in slips   # turned around, or one of two columns in place of which four could stand
  assert [a for a in play(env, join, expert(env, join, 'retry'))[2] if a.startswith('<sql>')][-1] == f'<sql> {OTHERS[1][2]} </sql>'


def test_what_a_query_reads(env):
  club = env.tasks('train_all')[0].data.path
  assert set(sql_sandbox.reads(club, 'SELECT COUNT(*) FROM Club WHERE ID IN (SELECT club_id FROM member)')) == {('club', 'id'), ('member', 'club_id')}
  assert sql_sandbox.reads(club, 'SELECT nothing') == sql_sandbox.reads(club, 'DROP TABLE club') == ()


# ---- the real one --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='session')
def real(tmp_path_factory):
  source = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data' / 'spider.tar.xz'
  if not source.is_file():
    pytest.skip(f'{source} is not there')
  folder = tmp_path_factory.mktemp('real')
  with lzma.open(source) as f, tarfile.open(fileobj=f) as tar:
    tar.extractall(folder, filter='data')
  return str(folder / 'spider')


def test_every_gold_query_scores_1(real):
  """6,559 + 1,007 questions, each answered by its gold query under the default limits; every fifth in other words, so that rows are compared."""
  began = time.monotonic()
  env = sql(path=real, protocol='single')
  tasks = [*env.tasks('train_all'), *env.tasks('dev')]
  assert time.monotonic() - began < 5.
  assert len(env.tasks('train_all')) == 6559 and len(env.tasks('dev')) == 1007 and len(env.tasks('train')) + len(env.tasks('held_out_questions')) == 6559
  assert 200 < len(env.tasks('held_out_questions')) < 450

  def ask(task):
    words = ' /* again */' if int(task.id.split('/')[-1]) % 5 == 0 else ''
    return env.step(env.reset(task, 0)[0], Action(f'```sql\n{task.data.sql}{words};\n```'))[1]
  assert not [(t.id, t.data.sql) for t in tasks if ask(t).reward != {'task': 1.}]
  results = {(t.data.path, t.data.sql) for t in tasks}
  sizes = [(len(rows), sum(len(v) if isinstance(v, str | bytes) else 8 for row in rows for v in row))
           for rows in (sql_sandbox.execute(*one, **env.limits).rows for one in results)]
  assert [max(column) for column in zip(*sizes)] == [20_662, 289_161]   # what the limits must leave room for


def test_real_experts(real):
  """careful is always right; the mixture is not, so that something is left to learn."""
  for protocol in ('multi', 'single'):
    env = sql(path=real, protocol=protocol)
    tasks = env.tasks('train')[::60]
    assert accuracy(env, tasks, 'careful') == 1. and .4 < accuracy(env, tasks) < .75
    assert accuracy(env, tasks, 'skip') < .5 and accuracy(env, tasks, 'sloppy') < .3
  assert _sql_layout.described(_sql_layout.tables(env.path, env.tasks('dev')[0].data)).count(' = ') == 2
