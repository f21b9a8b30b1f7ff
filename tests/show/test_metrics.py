"""The record of a run: what is written, what a killed process leaves, and the way back to a checkpoint."""

import math
import os
import pathlib
import signal
import struct
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from rlx.show import metrics, stats
from rlx.types import Group, Node, Task


def crc32c(data):
  """Castagnoli's CRC bit by bit, with TFRecord's mask."""
  crc = 0xFFFFFFFF
  for byte in data:
    crc ^= byte
    for _ in range(8):
      crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
  crc ^= 0xFFFFFFFF
  return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def events(workdir):
  """Every event of a folder, in TensorBoard's order, from the bytes; a damaged record fails."""
  found = []
  for path in sorted(pathlib.Path(workdir).glob('*tfevents*')):
    data, at = path.read_bytes(), 0
    while at < len(data):
      size, crc = struct.unpack_from('<QI', data, at)
      assert crc == crc32c(data[at:at + 8]), path
      body = data[at + 12:at + 12 + size]
      assert struct.unpack_from('<I', data, at + 12 + size)[0] == crc32c(body), path
      found.append(event_pb2.Event.FromString(body))
      at += 16 + size
  return found


def scalars(workdir, tag):
  return [(e.step, v.simple_value) for e in events(workdir) for v in e.summary.value if v.tag == tag]


def node(parent=-1, text='a', **kw):
  kw = dict(sampled=np.array([True, False, True]), logp=np.array([-1., 0., -2.], np.float32), ids=[5, 6, 7],
            stream={'entropy': np.array([.5, 9., 1.], np.float32)}) | kw
  return Node(parent=parent, obs='see', context=[1, 2], fresh=parent < 0, text=text, **kw)


def test_crc_of_the_reader():
  assert crc32c(b'123456789') == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_writes_lines_and_events(tmp_path):
  with metrics.Writer(tmp_path / 'new' / 'run') as w:
    line = w.write(3, {'phase': 'rl', 'reward/task': np.float32(.25), 'loss/main': jnp.float32(2), 'n': np.int64(7)})
    w.write(4, {'kl': math.nan, 'grad_norm': math.inf, 'entropy': 1., 'missing': None})
  assert line == {'step': 3, 'phase': 'rl', 'reward/task': .25, 'loss/main': 2., 'n': 7}
  records = metrics.read(tmp_path / 'new' / 'run')
  assert records == [line, {'step': 4, 'kl': None, 'grad_norm': None, 'entropy': 1., 'non_finite': 2}]
  assert scalars(tmp_path / 'new' / 'run', 'reward/task') == [(3, .25)]
  assert scalars(tmp_path / 'new' / 'run', 'non_finite') == [(4, 2.)]
  assert scalars(tmp_path / 'new' / 'run', 'kl') == [] and scalars(tmp_path / 'new' / 'run', 'step') == []
  assert events(tmp_path / 'new' / 'run')[0].file_version == 'brain.Event:2'


def test_every_line_is_on_disk_before_close(tmp_path):
  w = metrics.Writer(tmp_path)
  w.write(1, {'x': 1})
  assert metrics.read(tmp_path) == [{'step': 1, 'x': 1}] and scalars(tmp_path, 'x') == [(1, 1.)]
  w.close()


def test_refuses_what_is_no_number(tmp_path):
  with metrics.Writer(tmp_path) as w:
    with pytest.raises(TypeError, match=r"metric 'loss' is not one number: .* of shape \(2,\)"):
      w.write(0, {'loss': np.zeros(2)})
    with pytest.raises(TypeError, match="metric 'x' is neither text nor one number"):
      w.write(0, {'x': {}})
  assert metrics.read(tmp_path) == []


def test_read_skips_a_half_written_line_and_names_a_bad_one(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_bytes(b'{"step":1}\n{"step":2')
  assert metrics.read(path) == [{'step': 1}]
  path.write_bytes(b'{"step":1}\n\x00\x00\n{"step":2}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl:2 is no JSON'):
    metrics.read(path)


def test_a_new_writer_starts_behind_the_last_whole_line(tmp_path):
  (tmp_path / 'metrics.jsonl').write_bytes(b'{"step":1}\n{"step":2,"long":"' + b'x' * 200_000)
  with metrics.Writer(tmp_path) as w:
    w.write(2, {})
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b'{"step":1}\n{"step":2}\n'


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
@pytest.mark.parametrize('name', ['metrics.jsonl', 'episodes.jsonl'])
def test_a_full_disk_names_the_path(tmp_path, name):
  (tmp_path / name).symlink_to('/dev/full')
  with pytest.raises(OSError, match=f"cannot write '.*{name}' .No space left on device.: make room"):
    if name == 'metrics.jsonl':
      with metrics.Writer(tmp_path, events=False) as w:
        w.write(0, {'x': 1.})
    else:
      with metrics.Episodes(tmp_path) as e:
        e.write(0, [Group(Task('t'), [node()])])


def test_a_folder_that_cannot_be_written_names_the_path(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(NotADirectoryError, match="cannot write '.*file/run/metrics.jsonl'"):
    metrics.Writer(tmp_path / 'file' / 'run')
  if os.geteuid():   # root may write everywhere
    (tmp_path / 'locked').mkdir(mode=0o500)
    with pytest.raises(PermissionError, match="cannot write '.*locked/metrics.jsonl' .Permission denied."):
      metrics.Writer(tmp_path / 'locked')


# ---- cut -------------------------------------------------------------------------------------------------------------

def run(workdir, steps):
  with metrics.Writer(workdir) as w, metrics.Episodes(workdir) as e:
    for s in steps:
      w.write(s, {'phase': 'rl', 'loss': s / 7})
      e.write(s, [Group(Task(f'q{s}'), [node()])])


def test_cut_and_go_on_equals_an_uninterrupted_run(tmp_path):
  a, b = tmp_path / 'a', tmp_path / 'b'
  run(a, range(8))
  run(b, range(6))
  metrics.cut(b, 3)
  run(b, range(4, 8))
  for name in ('metrics.jsonl', 'episodes.jsonl'):
    assert (a / name).read_bytes() == (b / name).read_bytes()
  assert scalars(a, 'loss') == scalars(b, 'loss') and len(scalars(b, 'loss')) == 8
  starts = [e.step for e in events(b) if e.session_log.status == event_pb2.SessionLog.START]
  assert starts == [0, 4] and not list(b.glob('*.tmp'))


def test_cut_drops_half_written_records_and_does_nothing_twice(tmp_path):
  run(tmp_path, range(5))
  event_file, = tmp_path.glob('*tfevents*')
  files = [tmp_path / 'metrics.jsonl', tmp_path / 'episodes.jsonl', event_file]
  whole = [f.read_bytes() for f in files]
  for f, data in zip(files, whole):
    f.write_bytes(data + data[-60:-7])
  metrics.cut(tmp_path, 4)
  assert [f.read_bytes() for f in files] == whole
  inodes = [f.stat().st_ino for f in files]
  metrics.cut(tmp_path, 4)
  assert [f.stat().st_ino for f in files] == inodes and sorted(tmp_path.iterdir()) == sorted(files)


def test_cut_drops_a_line_that_a_power_failure_left(tmp_path):
  (tmp_path / 'metrics.jsonl').write_bytes(b'{"step":1}\n\x00\x00\n[]\n{"step":2}\n{"step":3}\n')
  metrics.cut(tmp_path, 2)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == b'{"step":1}\n{"step":2}\n'


def test_cut_to_the_start_and_of_nothing(tmp_path):
  metrics.cut(tmp_path / 'nowhere', 3)
  run(tmp_path, range(2))
  metrics.cut(tmp_path, -1)
  assert metrics.read(tmp_path) == [] and scalars(tmp_path, 'loss') == []


@pytest.mark.parametrize('killed', ['fsync', 'replace'])
def test_cut_may_be_killed(tmp_path, monkeypatch, killed):
  run(tmp_path, range(6))
  before = {p: p.read_bytes() for p in tmp_path.iterdir()}
  calls = []

  def die(*args):
    calls.append(args)
    if len(calls) == 2:   # in the second file
      raise KeyboardInterrupt

  real = getattr(os, killed)
  monkeypatch.setattr(os, killed, lambda *a: die(*a) or real(*a))
  with pytest.raises(KeyboardInterrupt):
    metrics.cut(tmp_path, 2)
  monkeypatch.undo()
  for path, data in before.items():
    left = path.read_bytes()
    assert left == data or (left and data.startswith(left)), path
  metrics.cut(tmp_path, 2)
  assert [r['step'] for r in metrics.read(tmp_path)] == [0, 1, 2]
  assert [r['step'] for r in metrics.read(tmp_path / 'episodes.jsonl')] == [0, 1, 2]
  assert [s for s, _ in scalars(tmp_path, 'loss')] == [0, 1, 2]


def test_kill_9_loses_at_most_the_current_line(tmp_path):
  program = ('import sys\nfrom rlx.show import metrics\nw = metrics.Writer(sys.argv[1])\n'
             'for i in range(10**9):\n  w.write(i, {f"k{j}": i + j for j in range(30)})\n  print(i, flush=True)')
  p = subprocess.Popen([sys.executable, '-c', program, str(tmp_path)], stdout=subprocess.PIPE)
  for line in p.stdout:
    if int(line) == 50:
      break
  p.send_signal(signal.SIGKILL)
  said = [50] + [int(line) for line in p.stdout.read().splitlines(keepends=True) if line.endswith(b'\n')]
  p.wait()
  p.stdout.close()
  steps = [r['step'] for r in metrics.read(tmp_path)]
  assert steps == list(range(len(steps))) and steps[-1] in (said[-1], said[-1] + 1)
  metrics.cut(tmp_path, 40)
  assert [r['step'] for r in metrics.read(tmp_path)] == list(range(41))
  assert scalars(tmp_path, 'k3') == [(i, i + 3.) for i in range(41)]


# ---- episodes --------------------------------------------------------------------------------------------------------

def test_episode_line(tmp_path):
  group = Group(Task('q1', {'db': 'shop', 'gold': ('a', 1)}), [
      node(reward={'task': 0., 'judge': None}, label={'state': ('x', 1), 'turn': 0}, value={'conf': np.float32(.5)}),
      node(0, 'b', end=1, reward={'task': 1.}, sampled=np.zeros(3, bool), stream={}),
      node(0, 'c', end=3)], prompt={'difficulty': math.nan}, index=9)
  with metrics.Episodes(tmp_path) as e:
    e.write(2, [group], {'main': [[.5, -.5, 0.]], 'late': []})
  line, = metrics.read(tmp_path / 'episodes.jsonl')
  assert (line['step'], line['prompt'], line['index'], line['known']) == (2, 'q1', 9, {'difficulty': None})
  assert line['task'] == {'db': 'shop', 'gold': ['a', 1]} and line['parent'] == [-1, 0, 0] and line['end'] == [0, 1, 3]
  first, second, _ = line['steps']
  assert first['sampled'] == [1, 0, 1] and first['ids'] == [5, 6, 7] and first['obs'] == 'see' and first['text'] == 'a'
  assert first['reward'] == {'task': 0., 'judge': None} and first['advantage'] == {'main': .5}
  assert first['logp'] == -1.5 and first['entropy'] == .75 and second['logp'] is None and second['entropy'] is None
  assert first['label'] == {'state': ['x', 1], 'turn': 0} and first['value'] == {'conf': .5}


def test_limits_of_episodes(tmp_path):
  groups = [Group(Task(f'q{i}'), [node()]) for i in range(3)]
  with metrics.Episodes(tmp_path, first=2, every=5) as e, metrics.Episodes(tmp_path / 'none', first=0) as none:
    for step in range(11):
      e.write(step, groups)
      none.write(step, groups)
  assert [(r['step'], r['prompt']) for r in metrics.read(tmp_path / 'episodes.jsonl')] == [
      (s, q) for s in (0, 5, 10) for q in ('q0', 'q1')]
  assert not (tmp_path / 'none').exists()


def test_advantages_of_another_forest_are_refused(tmp_path):
  with metrics.Episodes(tmp_path) as e, pytest.raises(ValueError, match="'main' has 2 advantages for the 1 steps of 'q'"):
    e.write(0, [Group(Task('q'), [node()])], {'main': [[1., 2.]]})


def test_odd_text_survives(tmp_path):
  text = 'tab\t nul\x00 \u2028 lone \ud800 emoji \U0001F600 "quote"'
  with metrics.Episodes(tmp_path) as e:
    e.write(0, [Group(Task('q', object()), [node(text=text)])])
  line, = metrics.read(tmp_path / 'episodes.jsonl')
  assert line['steps'][0]['text'] == text and line['task'].startswith('<object')
  assert (tmp_path / 'episodes.jsonl').read_bytes().count(b'\n') == 1


# ---- intervals -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('right, count, low, high', [
    (81, 263, .2553, .3662),    # Newcombe 1998, table I, method 3
    (15, 148, .0624, .1605),
    (0, 20, .0000, .1611),
    (1, 29, .0061, .1718),
    (0, 0, 0., 1.)])
def test_wilson(right, count, low, high):
  np.testing.assert_allclose(stats.wilson(right, count), (low, high), atol=5e-5)


def test_wilson_is_symmetric_and_refuses_nonsense():
  low, high = stats.wilson(3, 10)
  np.testing.assert_allclose(stats.wilson(7, 10), (1 - high, 1 - low), rtol=1e-12)
  with pytest.raises(ValueError, match='4 right answers of 3'):
    stats.wilson(4, 3)


def test_t_interval():
  # t(0.975; 4) = 2.776445, s = 1.581139: half = 1.963243
  np.testing.assert_allclose(stats.t_interval([1, 2, 3, 4, 5]), (3., 1.036757, 4.963243), atol=1e-6)
  np.testing.assert_allclose(stats.t_interval([0., 1.]), (.5, .5 - 12.706205 / 2, .5 + 12.706205 / 2), atol=1e-5)
  mean, low, high = stats.t_interval([.7])
  assert mean == .7 and math.isnan(low) and math.isnan(high) and math.isnan(stats.t_interval([])[0])
  assert stats.t_interval([.25] * 3) == (.25, .25, .25)
