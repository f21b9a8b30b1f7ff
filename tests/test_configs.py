"""Every config is built, traced, and runs two steps of each phase (half of them where `slow` runs); nothing is compiled more often than it has shapes."""

import glob
import json
import os

import numpy as np
import pytest

from rlx import assemble, compilation, config, index, train
from rlx.check import check

CONFIGS = sorted(f for f in glob.glob('configs/*.py') if os.path.basename(f) not in ('base.py', '__init__.py'))

PRETRAINED = ('configs/smollm2_sql.py', 'configs/spider_single.py')   # their weights need not be here: checked with what `:smoke` has instead


@pytest.mark.parametrize('path', CONFIGS)
def test_check(path):
  c = config.load(f'{path}:smoke' if path in PRETRAINED else path)
  env = assemble.environment(c)
  lines = check(c, env, [assemble.phase(one, env) for one in assemble.phases(c)]).splitlines()
  assert len(lines) == len(c.phases) and all('parameters' in line for line in lines)


WHOLE = ('configs/quickstart.py', 'configs/probe.py')   # the others take no look at held-out questions and draw no pictures


TRACED = ('estimator', 'transform', 'selector', 'loss', 'average', 'tx')


def smokes():
  """All configs; slow are those without a method of the host (a reward, a probe ...) that none before them has: `test_check` traces the rest."""
  known, first = set(), ('configs/quickstart.py', 'configs/probe.py', 'configs/ppo.py', 'configs/trust_sql.py', 'configs/oprl.py')
  for path in sorted(CONFIGS, key=lambda path: path not in first):
    used = {(kind, name) for kind, names in index.uses(config.load(path)).items() if kind not in TRACED for name in names}
    yield pytest.param(path, id=path, marks=() if used - known or path in first else pytest.mark.slow)
    known |= used


@pytest.mark.parametrize('path', list(smokes()))
def test_smoke(path, tmp_path):
  c = config.load(f'{path}:smoke', {'workdir': str(tmp_path)} | ({} if path in WHOLE else {'eval.splits': {}}))
  records = list(train.iterate(c))
  assert [r['phase'] for r in records] == [p['name'] for p in c.phases for _ in range(2)]
  for r in records:
    losses = [v for k, v in r.items() if 'loss/' in k]
    assert losses and np.isfinite(losses).all() and r['skipped'] == 0
  if path not in WHOLE:
    return
  train.finish(c)
  for name in ('metrics.jsonl', 'curves.png', 'report.html', 'config.json', 'tokenizer.json'):
    assert (tmp_path / name).stat().st_size > 100, name
  with open(tmp_path / 'config.json', encoding='utf-8') as f:
    assert json.load(f)['name'] == c.name


def test_nothing_is_compiled_twice(tmp_path):
  """Steps of changing sizes compile as many programs as there are shapes, and no more later."""
  c = config.load('tests/configs/tiny.py', {'workdir': str(tmp_path), 'phases[0].steps': 6, 'phases[1].steps': 8, 'eval.every': 3,
                                            'sampler.buckets': (4,), 'tracks.main.loss[0]': {'name': 'ppo_clip', 'low': {
                                                'schedule': 'linear', 'start': .1, 'end': .3, 'steps': 8}}})
  before, compiles, made = compilation.programs(), [], []
  for r in train.iterate(c):
    compiles.append(r['compiles'])
    after = compilation.programs()
    made.append({k.removeprefix('jit(').removesuffix(')'): n - before.get(k, 0) for k, n in after.items()})
  last = made[-1]
  assert last['extend'] <= 2 and last['decode'] <= 2 and last.get('fork', 0) <= 1      # two numbers of rows
  assert last['step'] == 2 and last['run'] == 2                                        # one bucket, two phases
  assert compiles[8:] == compiles[8:9] * 6                                             # and nothing new after two steps of RL
