"""Everything a user may write, outside the package: named in a config or passed as a callable, no file of rlx edited."""

import os
import subprocess
import sys

import numpy as np
import pytest

from rlx import config, train
from tests import my_lab

TINY = 'tests/configs/tiny.py'


def small(tmp_path, **overrides):
  return config.load(TINY, {'workdir': str(tmp_path / 'run'), 'phases[0].steps': 1, 'phases[1].steps': 2, 'eval.splits': {}, **overrides})


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """The lab's file in a folder of its own, importable by its dotted name."""
  folder = tmp_path / 'site' / 'my_own_lab'
  folder.mkdir(parents=True)
  (folder / '__init__.py').write_text('')
  with open(my_lab.__file__, encoding='utf-8') as f:
    (folder / 'mod.py').write_text(f.read())
  monkeypatch.syspath_prepend(str(tmp_path / 'site'))
  return tmp_path / 'site'


def test_an_estimator_by_its_dotted_name_and_as_a_callable(tmp_path, lab):
  by_name = train.run(small(tmp_path / 'a', **{'tracks.main.estimator': ({'name': 'my_own_lab.mod.mine', 'scale': 2.},)}))
  called = train.run(small(tmp_path / 'b'), **{'tracks.main.estimator': ({'name': my_lab.mine, 'scale': 2.},)})
  assert len(by_name.records) == 3
  for key in ('loss/main', 'grad_norm', 'reward/task'):
    np.testing.assert_array_equal(by_name.column(key), called.column(key))
  with pytest.raises(config.ConfigError, match="estimator 'my_own_lab.mod.mine' has no keyword 'scail'.*Did you mean 'scale'"):
    train.run(small(tmp_path / 'c', **{'tracks.main.estimator': ({'name': 'my_own_lab.mod.mine', 'scail': 2.},)}))


def test_the_property_suite_runs_on_it(lab):
  command = [sys.executable, '-m', 'pytest', '-n', '0', '-p', 'no:cacheprovider', '--method']
  env = dict(os.environ, PYTHONPATH=str(lab))
  good = subprocess.run([*command, 'my_own_lab.mod.mine'], env=env, capture_output=True, text=True)
  assert good.returncode == 0 and 'passed' in good.stdout, good.stdout[-2000:]
  (lab / 'my_own_lab' / 'bad.py').write_text('def leak(batch, *, channel="task"):\n  return batch.nodes.reward[channel] + 1.\n')
  bad = subprocess.run([*command, 'my_own_lab.bad.leak'], env=env, capture_output=True, text=True)
  assert bad.returncode == 1 and 'failed' in bad.stdout, bad.stdout[-2000:]


def test_one_of_everything(tmp_path, lab):
  """Environment, context, explorer, scorer, rewards, probe, label, segmenter, curriculum, transform, selector, loss with head and extra."""
  c = small(tmp_path, env=dict(name='my_own_lab.mod.echo'))
  mod = 'my_own_lab.mod.'
  rl = dict(name='rl', steps=2, source='rollout', explorer=mod + 'forking', context=mod + 'shout', segment=mod + 'halves',
            scorers={'words': mod + 'words'}, rewards=(mod + 'length', mod + 'ranked'), probes=(mod + 'p_end',),
            labels={'word': mod + 'last_word'}, curriculum=mod + 'two_easy', transforms=(mod + 'mark',),
            tracks=dict(main=dict(estimator=(mod + 'mine', ), selector=(dict(name=mod + 'early', before=40),), average='turn_mean',
                                  loss=(dict(name='ppo_clip'), dict(name=mod + 'margin', weight=.1, coef=.5)))))
  seen = []
  c = config.override(c, {'phases': (dict(c.phases[0]), rl), 'models': {'policy': c.models.policy.to_dict(), 'friend': c.models.policy.to_dict()},
                          'sampler.width': 64, 'buckets': (dict(rows=32, width=64, nodes=96, prompts=8),), 'episodes': dict(every=1, keep=8)})
  for record in train.iterate(c):
    seen.append(record)
  assert [r['phase'] for r in seen] == ['warm', 'rl', 'rl']
  assert np.isfinite(seen[-1]['loss/main']) and seen[-1]['grad_norm'] > 0
  import json
  with open(tmp_path / 'run' / 'episodes.jsonl', encoding='utf-8') as f:
    lines = [json.loads(line) for line in f]
  tree = [l for l in lines if l['step'] == 2][0]
  # the trunk 0-1-2, cut in 1 after one token: its pieces are 1 and 2; two forks below piece 1; a forced and a friend's step below 0
  assert tree['parent'][:4] == [-1, 0, 1, 2]
  assert sum(p == 1 for p in tree['parent']) == 3
  assert sum(p == 0 for p in tree['parent']) == 3
  by = [s['by'] for s in tree['steps']]
  assert by.count('friend') == 1 and tree['end'].count(1) == 3
  friend = tree['steps'][by.index('friend')]
  assert not any(friend['sampled']) and friend['advantage']['main'] == 0
  forced = [s for s in tree['steps'] if s['sampled'] and not all(s['sampled']) and s['by'] == 'policy']
  assert len(forced) == 1 and forced[0]['text'].startswith(' two')
  assert len(tree['steps'][1]['ids']) == 1
  assert all('p_end' in s['value'] for s in tree['steps'] if s['text'])
  assert tree['known']['p_end'] < 0
