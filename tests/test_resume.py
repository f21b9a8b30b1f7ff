"""kill -9 in a step and in a checkpoint, then the same command: the run equals the one that was never killed."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from rlx import course
from rlx.learn import checkpoint

SCRIPT = """
import os, signal, sys, threading
from rlx import config, train
workdir, stage, at, delay = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
c = config.load('tests/configs/tiny.py', {'workdir': workdir, 'checkpoint.every': 2, 'phases[0].steps': 5, 'phases[1].steps': 5,
                                          'eval.every': 1, 'episodes.every': 1, 'rewards': ('tests.configs.tiny.novel',),
                                          'transforms': ('tests.configs.tiny.counted',)})
c.phases = (dict(c.phases[0], name='none', steps=0), *c.phases)
seen = []
def stages(name):
  seen.append(name)
  if name == stage and seen.count(name) == at:
    kill = lambda: os.kill(os.getpid(), signal.SIGKILL)
    threading.Timer(delay, kill).start() if delay else kill()
for record in train.iterate(c, stages=stages):
  pass
train.finish(c)
"""


def command(workdir, stage='', at=0, delay=0.):
  env = dict(os.environ, XLA_FLAGS='')
  return subprocess.run([sys.executable, '-c', SCRIPT, str(workdir), stage, str(at), str(delay)], env=env, capture_output=True, text=True)


def records(workdir):
  """Everything but clocks, memory and counts of compilations."""
  timed = ('seconds', 'wall_s', 'tokens_per_s', 'memory_mb', 'compiles')
  with open(os.path.join(workdir, 'metrics.jsonl'), encoding='utf-8') as f:
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(timed)} for line in f]


def episodes(workdir):
  with open(os.path.join(workdir, 'episodes.jsonl'), encoding='utf-8') as f:
    return [json.loads(line) for line in f]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('whole')
  done = command(folder)
  assert done.returncode == 0, done.stderr[-2000:]
  assert done.stdout.strip().splitlines()[-1].startswith('tiny: held=')
  return folder


# the 3rd update is in the warm phase, the 8th in RL; the 3rd checkpoint closes the warm phase, and 20 ms in it is half written
@pytest.mark.parametrize(('stage', 'at', 'delay'), [
    ('update', 3, 0.), ('update', 8, 0.), ('grow', 9, 0.), ('checkpoint', 3, 0.), ('checkpoint', 4, .02), ('checkpoint', 2, .05)])
def test_the_continued_run_is_the_same(whole, tmp_path, stage, at, delay):
  killed = command(tmp_path, stage, at, delay)
  assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
  again = command(tmp_path)
  assert again.returncode == 0, again.stderr[-2000:]
  assert 'continuing at step' in again.stdout
  assert records(tmp_path) == records(whole)
  assert episodes(tmp_path) == episodes(whole)
  assert len(records(whole)) == 10
  ends = []
  for folder in (whole, tmp_path):
    folder = os.path.join(folder, 'checkpoints')
    step = checkpoint.latest(folder)
    kept = course.kept(folder, step)['course']
    kept.pop('wall_s')
    leaves = _leaves(folder, step)
    ends.append((step, kept, leaves))
  assert ends[0][:2] == ends[1][:2] and ends[0][0] == 10
  assert len(ends[0][2]) > 10
  for a, b in zip(ends[0][2], ends[1][2], strict=True):
    np.testing.assert_array_equal(a, b)


def _leaves(folder, step):
  """Every array of a checkpoint, read through a fresh state of the config."""
  import jax

  from rlx import assemble, config
  from rlx.learn import mesh
  c = config.load('tests/configs/tiny.py', {'transforms': ('tests.configs.tiny.counted',)})
  env = assemble.environment(c)
  tok = assemble.tokenizer(c, env, os.path.dirname(folder))
  world = assemble.World(env, tok, assemble.models(c, tok, mesh.create(1, 1, 1, devices=jax.devices()[:1]), assemble.heads(c)), None)
  phase = assemble.phase(assemble.phases(c)[-1], env)
  kept = jax.device_get(checkpoint.restore(folder, course.first_states(phase, world), step=step)[0])
  assert kept['memory'] == [5.], 'the batches of the second phase'
  return jax.tree.leaves(kept)


def test_a_finished_run_is_only_summed_up(whole):
  before = records(whole)
  again = command(whole)
  assert again.returncode == 0 and again.stdout.strip().splitlines()[-1].startswith('tiny: held=')
  assert records(whole) == before
