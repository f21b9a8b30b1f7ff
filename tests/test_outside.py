"""Everything a user may write, outside the package: named in a config or passed as a callable, no file of rlx edited."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from rlx import config, train
from rlx.learn import pack
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


def test_one_of_everything(tmp_path, lab, monkeypatch):
  """Environment, context, explorer, scorer, rewards, probe, label, segmenter, curriculum, transform, selector, loss.

  Nothing stops an action, so each has 6 ids; a prompt has 2, what is heard later 1. Steps as they were grown (f: the friend's; 4 and 5
  leave 1 behind its first id, 6 begins with a forced word, 7 is abandoned) and as they are cut (1 in two):

            0                              0
      1   3f  4  5  6  7              1   4f   7  8
      2   11  8  9  10             2  5  6  12  11
                                   3  9  10
  """
  mod = 'my_own_lab.mod.'
  rl = dict(name='rl', steps=2, source='rollout', explorer=mod + 'forking', context=mod + 'shout', segment=mod + 'halves',
            scorers={'words': mod + 'words'}, rewards=(mod + 'length', mod + 'ranked'), probes=(mod + 'p_end',),
            labels={'word': mod + 'last_word'}, curriculum=mod + 'two_easy', transforms=(mod + 'mark',),
            tracks=dict(main=dict(estimator=(mod + 'mine',), selector=(dict(name=mod + 'early', before=20.),), average='turn_mean',
                                  loss=(dict(name='ppo_clip'), dict(name=mod + 'margin', weight=.1, coef=.5)))))
  c = small(tmp_path, env=dict(name=mod + 'echo'))
  model = c.models.policy.to_dict()
  c = config.override(c, {
      'tokenizer': dict(name='bpe', size=300, special=('<say>', '<again>', 'one', 'two', 'three', 'four')),
      'phases': (dict(c.phases[0]), rl), 'models': {'policy': model, 'friend': model}, 'sampler.width': 64, 'sampler.stop': (),
      'on_policy_prompts': 2, 'buckets': (dict(rows=8, width=64, nodes=32, prompts=2),), 'episodes': dict(every=1, keep=8)})
  batches, whole = [], pack.pack

  def spy(*args, **kw):
    batches.append(whole(*args, **kw)[0])
    return batches[-1:]
  monkeypatch.setattr(pack, 'pack', spy)
  seen = list(train.iterate(c))
  jax.effects_barrier()

  assert [r['phase'] for r in seen] == ['warm', 'rl', 'rl']
  for r in seen[1:]:
    assert np.isfinite(r['loss/main']) and r['grad_norm'] > 0 and r['updates'] == 1
    assert r['ratio_gap'] < 1e-4, 'forward says what the sampler said'
    assert r['tokens_trained'] == 2 * 58
    assert r['tokens_sampled'] == 2 * (10 * 6 + 2 * 5), 'twelve actions a prompt, the first id of two was there already'
  import my_own_lab.mod
  # of 58 trained ids, those at positions below 20: the last step of each path begins at 16, behind the forced word at 17
  assert my_own_lab.mod.kept == [2 * (16 + 9 + 9 + 9 + 4)] * 2

  n = len(PARENT)
  for packed in batches[1:]:
    b = packed.batch
    assert [g.task.id for g in packed.groups] == ['train0', 'train1']
    for i in range(2):
      at = slice(n * i, n * i + n)
      nodes = jax.tree.map(lambda x, at=at: x[at], b.nodes)
      assert (nodes.parent - n * i * (nodes.parent >= 0)).tolist() == PARENT
      assert nodes.end.tolist() == END and nodes.valid.all() and set(nodes.group.tolist()) == {i}
      row = b.tokens.node - n * i
      mine = (b.tokens.segment >= 0) & (row >= 0) & (row < n)
      count = lambda where: np.bincount(row[mine & where], minlength=n).tolist()
      everything = np.ones_like(mine)
      assert count(b.tokens.mask) == MASK and sum(MASK) == 58
      assert count(b.tokens.sampled) == SAMPLED
      assert count(b.tokens.role['first'] & b.tokens.mask) == FIRST
      assert count(everything) == TOKENS
      assert nodes.judged['length'].tolist() == [False] + [True] * 12 and nodes.judged.keys() == {'length'}
      np.testing.assert_allclose(nodes.reward['length'], LENGTH, atol=1e-6)
      assert sorted(nodes.reward['rank'][[3, 9, 10, 11, 12]]) == [0, 1, 2, 3, 4]
      state = nodes.label['state']
      assert len(set(state[1:])) == 1 and state[0] != state[1]
      assert (nodes.value['p_end'] < 0).tolist() == [True, False] + [True] * 11 and b.prompt['p_end'][i] < 0
    assert not b.nodes.valid[2 * n:].any()
    assert int((b.tokens.segment >= 0).sum()) == 2 * (4 * 22 + 23)
    assert not b.tokens.logp[~b.tokens.sampled].any() and (b.tokens.logp[b.tokens.sampled] < 0).all()

  with open(tmp_path / 'run' / 'episodes.jsonl', encoding='utf-8') as f:
    lines = [json.loads(line) for line in f]
  told, = [l for l in lines if l['step'] == 2 and l['index'] == lines[-1]['index']]
  steps = told['steps']
  assert told['parent'] == PARENT and told['end'] == END and told['known']['p_end'] < 0
  assert [len(s['ids']) for s in steps] == [6, 1, 5, 6, 6, 5, 5, 7, 6, 6, 6, 6, 6]
  assert [s['by'] for s in steps].index('friend') == 4 and not any(steps[4]['sampled']) and steps[4]['advantage']['main'] == 0
  assert steps[7]['sampled'] == [0] + [1] * 6 and steps[7]['text'].startswith('two')
  assert steps[8]['advantage']['main'] == 0, 'nobody learns from what was abandoned'


# what the tree of every prompt is, cut:  0   1  2  3  4f 5  6  7  8  9 10 11 12
PARENT = [-1, 0, 1, 2, 0, 1, 1, 0, 0, 5, 6, 7, 4]
END = [0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1, 1]
MASK = [6, 1, 5, 6, 0, 5, 5, 6, 0, 6, 6, 6, 6]             # each step once; not the friend's, the forced id, the abandoned
SAMPLED = [30, 3, 5, 6, 0, 5, 5, 6, 0, 6, 6, 6, 6]         # step 0 stands in five rows, piece 1 in three
TOKENS = [30, 6, 5, 7, 7, 5, 5, 8, 0, 7, 7, 7, 7]          # with the observation before each and the forced id
FIRST = [3, 1, 2, 3, 0, 2, 2, 3, 0, 3, 3, 3, 3]            # the first half of each action; of 7 ids, 4, one of them forced
LENGTH = [0, 0, -.06, -.06, -.06, -.06, -.06, -.07, 0, -.06, -.06, -.06, -.06]    # of whole steps
