"""Tables of runs, with a fake trainer: what is run, what is kept, what is said of failures."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from rlx.show import table

TRAINER = """
import os, pathlib, sys, time
args = dict(a.split('=', 1) if '=' in a else (a, None) for a in sys.argv[1:])
seed, mode = int(args['--config.seed']), args.get('--config.mode', 'fine')
folder = pathlib.Path(sys.argv[sys.argv.index('--workdir') + 1])
folder.mkdir(parents=True, exist_ok=True)
runs = folder / 'runs'
runs.write_text(runs.read_text() + 'x' if runs.exists() else 'x')
print('fake: accuracy=0.01 wall_s=1')                # an earlier line does not count
print('a warning: nothing', file=sys.stderr, flush=True)
if mode == 'crash' or mode == 'once' and runs.read_text() == 'x':
  raise ValueError(f'no such | column')
if mode == 'slow':
  (folder / 'new').write_text(str(os.getpid()))
  (folder / 'new').rename(folder / 'started')
  time.sleep(60)
if mode == 'mute':
  folder.joinpath('done').touch(); sys.stdout.flush(); print('the end'); sys.exit()
print(f'fake: accuracy={0.8 + seed / 10:.2f} wall_s=131' + (' at=rl' if mode != 'poor' else ''))
print()
"""


@pytest.fixture
def command(tmp_path):
  (tmp_path / 'trainer.py').write_text(TRAINER)
  return sys.executable, str(tmp_path / 'trainer.py')


def config(**kw):
  return dict(rows=(dict(name='GRPO', config='configs/a.py', paper={'accuracy': .9}),
                    dict(name='GRPO (crash)', config='configs/a.py', overrides={'mode': 'crash'})),
              seeds=(0, 1), columns=('accuracy', 'wall_s'), minutes=1., claims='GRPO is right.') | kw


def test_arguments():
  row = dict(name='x', config='configs/a.py', overrides={'tracks.main.loss[0].low': .2, 'clip': None, 'name': 'a b', 'splits': ('x', 1)})
  assert table.arguments(row, 3) == [
      '--config', 'configs/a.py', '--config.tracks.main.loss[0].low=0.2', '--config.clip=None', '--config.name=a b',
      "--config.splits=('x', 1)", '--config.seed=3']


def test_runs_and_prints(tmp_path, command):
  said = []
  cells = table.run(config(), tmp_path / 'out', command=command, say=said.append)
  assert [(c.row, c.seed, c.values) for c in cells if not c.failure] == [
      ('GRPO', 0, dict(accuracy=.8, wall_s=131., at='rl')), ('GRPO', 1, dict(accuracy=.9, wall_s=131., at='rl'))]
  # t(0.975; 1) = 12.7062, s / sqrt(2) = 0.05: half = 0.635
  assert (tmp_path / 'out' / 'table.md').read_text() == '\n'.join([
      'GRPO is right.', '',
      '| row | column | paper | ours | 95 % | seeds 0 1 |',
      '|---|---|---|---|---|---|',
      '| GRPO | accuracy | 0.90 | 0.85 | 0.21 to 1.49 | 0.80 0.90 |',
      '|  | wall_s | - | 131 | 131 to 131 | 131 131 |',
      '| GRPO (crash) | accuracy | - | - | - | n/a n/a |',
      '|  | wall_s | - | - | - | n/a n/a |', '',
      'n/a:', '- GRPO (crash), seed 0, 1: exit 1: ValueError: no such | column', ''])
  assert said[0].startswith('[1/4] GRPO, seed 0: accuracy=0.80 wall_s=131 (0:0')
  assert said[1].startswith('[2/4] GRPO (crash), seed 0: exit 1: ValueError') and 'grpo_crash/seed0_' in said[1]


def test_finished_cells_are_not_run_again_and_failed_ones_are(tmp_path, command):
  t = config(rows=(dict(name='a', config='c.py'), dict(name='b', config='c.py', overrides={'mode': 'once'})), seeds=(0,))
  first = table.run(t, tmp_path / 'out', command=command, say=lambda _: None)
  said = []
  second = table.run(t, tmp_path / 'out', command=command, say=said.append)
  assert [bool(c.failure) for c in first] == [False, True] and [bool(c.failure) for c in second] == [False, False]
  assert '(done before)' in said[0] and '(done before)' not in said[1]
  assert {p.parent.parent.parent.name: p.read_text() for p in (tmp_path / 'out').glob('*/*/run/runs')} == {'a': 'x', 'b': 'xx'}


def test_an_edited_row_has_a_folder_of_its_own(tmp_path):
  a, b = (dict(name='a', config='c.py', overrides=o) for o in ({}, {'lr': 1.}))
  folders = [table.cell_folder(tmp_path, r, s) for r, s in ((a, 0), (b, 0), (a, 1))]
  assert len(set(folders)) == 3 and folders[0] == table.cell_folder(tmp_path, dict(a), 0)


@pytest.mark.parametrize('mode, minutes, why', [
    ('mute', 1., 'no summary line; it ended with: the end'), ('slow', .01, 'longer than 0.01 minutes')])
def test_other_failures(tmp_path, command, mode, minutes, why):
  (tmp_path / 'trainer.py').write_text(TRAINER.replace("print('fake: accuracy=0.01 wall_s=1')", ''))
  t = config(rows=(dict(name='a', config='c.py', overrides={'mode': mode}),), seeds=(0,), minutes=minutes)
  cell, = table.run(t, tmp_path / 'out', command=command, say=lambda _: None)
  assert cell.failure == why and cell.values == {}


def test_a_missing_column_and_a_run_to_come(tmp_path):
  t = config(rows=(dict(name='a|b', config='c.py'),), seeds=(0, 1), columns=('accuracy', 'kl'), claims='')
  assert table.markdown(t, [table.Cell('a|b', 0, dict(accuracy=.5))]) == '\n'.join([
      '| row | column | paper | ours | 95 % | seeds 0 1 |', '|---|---|---|---|---|---|',
      '| a\\|b | accuracy | - | 0.50 | - | 0.50 ... |', '|  | kl | - | - | - | n/a ... |', '',
      'n/a:', '- a|b, seed 0: no kl in its summary', ''])


CONFIG = """
import ml_collections
def get_config():
  c = ml_collections.ConfigDict()
  c.rows = (dict(name='a', config='c.py', overrides={'mode.deep': 'fine'}, paper={'accuracy': 1}),)
  c.seeds, c.columns, c.minutes, c.claims = (0,), ('accuracy',), 1, 'It works.'
  return c
"""


def test_command(tmp_path, command, capsys, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'mine.py').write_text(CONFIG)
  before = signal.getsignal(signal.SIGTERM)
  table.main(['--config', 'mine.py'], command=command)
  out = capsys.readouterr().out
  assert '| a | accuracy | 1.00 | 0.80 | - | 0.80 |' in out and 'It works.' in out
  assert pathlib.Path('runs/tables/mine/table.md').read_text() in out and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('old, new, message', [
    ('def get_config', 'def other', r"'.*mine.py' has no get_config\(\): define one that returns rows, seeds"),
    ('c.seeds', 'c.seed', "'.*mine.py' has the unknown key 'seed'; known are rows, seeds"),
    ('  c.rows', '  rows', "'.*mine.py' lacks the key 'rows'"),
    ('overrides=', 'override=', "a row of '.*mine.py' has the unknown key 'override'; known are name, config"),
    ("config='c.py', ", '', "a row of '.*mine.py' lacks the key 'config'"),
    ("{'accuracy': 1}", "{'acc': 1}", r"row 'a' of '.*mine.py' has the paper's \['acc'\], but the columns are \['accuracy'\]"),
    ("c.rows = (", "c.rows = (dict(name='A!', config='c.py'),", "two rows of '.*mine.py' would share a folder")])
def test_bad_configs(tmp_path, old, new, message):
  (tmp_path / 'mine.py').write_text(CONFIG.replace(old, new, 1))
  with pytest.raises(SystemExit, match=message):
    table.main(['--config', str(tmp_path / 'mine.py'), '--workdir', str(tmp_path / 'out')])


def test_no_config(tmp_path):
  with pytest.raises(SystemExit, match="no table config '.*none.py': give a file such as configs/tables/quickstart.py"):
    table.main(['--config', str(tmp_path / 'none.py')])


def test_stopping_the_table_stops_the_run(tmp_path, command):
  (tmp_path / 'mine.py').write_text(CONFIG.replace("{'mode.deep': 'fine'}", "{'mode': 'slow'}"))
  program = f'from rlx.show import table\ntable.main(["--config", "mine.py", "--workdir", "out"], command={command!r})'
  p = subprocess.Popen([sys.executable, '-c', program], cwd=tmp_path, stdout=subprocess.DEVNULL)
  until = time.monotonic() + 30
  while not (started := list(tmp_path.glob('out/*/*/run/started'))) and time.monotonic() < until:
    time.sleep(.02)
  pid = int(started[0].read_text())
  os.kill(pid, 0)
  p.terminate()
  assert p.wait(30) == 143
  with pytest.raises(ProcessLookupError):
    os.kill(pid, 0)


def test_module_is_a_command():
  p = subprocess.run([sys.executable, '-m', 'rlx.table'], capture_output=True, text=True)
  assert p.returncode == 2 and 'usage: python -m rlx.table' in p.stderr
