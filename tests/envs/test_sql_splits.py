"""Splits share nothing they should not, processes agree, files are made whole."""

import concurrent.futures
import hashlib
import os
import pathlib
import random
import subprocess
import sys
import zlib

import pytest

from rlx.envs import _sql_hidden, sql_data
from rlx.envs import sql as sql_module
from rlx.envs.sql import sql

WORLDS = ('hidden_names', 'four_acts')


@pytest.mark.parametrize('world', WORLDS)
def test_splits_share_nothing_they_should_not(envs, world):
  """Over every training question: its combination and gold text are in no held-out question, its gold text in none on new files."""
  env = envs[world]
  train = [t.data for t in env.tasks('train')]
  combos, texts = {q.combo for q in train}, {q.sql for q in train}
  asked, unseen = [t.data for t in env.tasks('held_out_questions')], [t.data for t in env.tasks('held_out_databases')]
  assert len(train) == env.questions and len(asked) == len(unseen) == 2000
  assert not combos & {q.combo for q in asked} and not texts & {q.sql for q in asked} and not texts & {q.sql for q in unseen}
  assert all(zlib.crc32(repr(c).encode()) % 5 for c in combos)
  assert {q.path for q in asked} <= {q.path for q in train} and not {q.path for q in unseen} & {q.path for q in train}
  assert {q.combo for q in unseen} & {q.combo for q in asked} or world == 'four_acts'   # other domains, other combinations
  if world == 'four_acts':
    tables = lambda questions: {table for q in questions for table, *_ in q.uses}
    assert not tables(unseen) & tables(train)


def test_share_of_combinations_held_out(hidden):
  train, _, _ = sql_module._databases(hidden)
  rng = random.Random(0)
  drawn = [_sql_hidden.question(rng.choice(train), rng, 2).combo for _ in range(4000)]
  assert 0.15 < sum(map(sql_data.held_out, drawn)) / 4000 < 0.25


@pytest.mark.parametrize('world', WORLDS)
def test_tasks_are_a_sequence(envs, world):
  tasks = envs[world].tasks('train')
  assert tasks[-1] == tasks[len(tasks) - 1] and tasks[3:5] == [tasks[3], tasks[4]] and tasks[3].id.endswith('/train/3')
  assert len({t.id for t in tasks[:200]}) == 200
  with pytest.raises(IndexError, match='question'):
    tasks[len(tasks)]


def test_seeds_differ(root, hidden):
  other = sql(root=root, seed=1)
  assert [t.data.text for t in hidden.tasks('train')[:20]] != [t.data.text for t in other.tasks('train')[:20]]
  assert hidden.tasks('train')[0].data.path != other.tasks('train')[0].data.path
  questions = [t.data.text for t in hidden.tasks('train')[:300]]
  assert len(set(questions)) > 280


DIGEST = '''
import hashlib, json, sys
from rlx.envs.sql import sql
from rlx.types import Action
digest = hashlib.sha256()
for world in ('hidden_names', 'four_acts'):
  env = sql(world=world, root=sys.argv[1], train_databases=12, held_databases=4, questions=500)
  for split in ('train', 'held_out_questions', 'held_out_databases'):
    for task in env.tasks(split)[:40]:
      speaker = env.expert(task, 7)
      state, obs = env.reset(task, 0)
      said, end = next(speaker), 0
      while not end:
        state, step = env.step(state, Action(said))
        end = step.end
        digest.update(repr((task.id, task.data._replace(path=''), obs, said, step)).encode())
        said = None if end else speaker.send(step.obs)
  for db in sorted({t.data.path for t in env.tasks('train')[:40]}):
    digest.update(open(db, 'rb').read())
print(digest.hexdigest())
'''


def _spawn(root, hashseed):
  return subprocess.run([sys.executable, '-c', DIGEST, str(root)], capture_output=True, text=True, check=True,
                        env=dict(os.environ, PYTHONHASHSEED=str(hashseed))).stdout


def test_processes_agree_and_may_build_at_once(tmp_path):
  with concurrent.futures.ThreadPoolExecutor(3) as pool:
    digests = list(pool.map(_spawn, (tmp_path / 'one', tmp_path / 'one', tmp_path / 'two'), (1, 2, 3)))
  assert len(set(digests)) == 1 and len(digests[0]) == 65
  left = [p for p in (tmp_path / 'one').rglob('*') if p.is_file() and p.suffix != '.sqlite']
  assert not left and not [p for p in (tmp_path / 'one').iterdir() if p.name.startswith('.')]
  assert len(list((tmp_path / 'one').rglob('*.sqlite'))) == 32


def test_files_follow_the_cache_folder_and_come_back(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  env = sql(seed=991, train_databases=2, held_databases=1, questions=50)
  path = pathlib.Path(env.tasks('train')[0].data.path)
  assert path.parent.parent == tmp_path / 'rlx' and path.parent.name.startswith('sql-') and len(list(path.parent.iterdir())) == 3
  kept = {p: hashlib.sha256(p.read_bytes()).digest() for p in path.parent.iterdir()}
  os.remove(path)
  sql_module._made.cache_clear()
  assert env.tasks('train')[0].data.path == str(path)
  assert {p: hashlib.sha256(p.read_bytes()).digest() for p in path.parent.iterdir()} == kept
  monkeypatch.delenv('XDG_CACHE_HOME')
  assert sql_data.cache_folder() == pathlib.Path.home() / '.cache' / 'rlx'


def test_sizes_that_cannot_work_say_so(tmp_path, monkeypatch):
  env = sql(seed=3, root=str(tmp_path), train_databases=1, held_databases=1, questions=50)
  monkeypatch.setattr(sql_data, 'held_out', lambda combo: False)
  with pytest.raises(ValueError, match="found no question for split 'held_out_questions': 1 databases are too few"):
    env.tasks('held_out_questions')[0]
