"""Runs that train a part of the policy: what is on the disk, continuing, opening, starting from another run, saving."""

import functools
import json
import os
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, config, course, session, train
from rlx.learn import checkpoint, partition
from rlx.learn.forward import forward
from rlx.models import hf, lora
from rlx.models.heads import from_module
from rlx.models.pretrained import pretrained
from rlx.models.transformer import transformer
from rlx.types import Model
from tests.models.test_lora import tokens

POLICY = dict(name='transformer', layers=2, dim=16, heads=2, ff=32)
ADAPTED = dict(POLICY, freeze=1, lora=dict(rank=2, alpha=4.))


def probability():
  """A head for rewards: a probability, from a flax module of one's own."""
  from flax import linen as nn
  return from_module(nn.Sequential([nn.Dense(1, dtype=jnp.float32), nn.sigmoid]))


def small(workdir, policy, **overrides):
  """A policy, a frozen copy of it that the KL is taken from, a value head of its own making."""
  c = config.load('tests/configs/tiny.py', {
      'workdir': str(workdir), 'phases[0].steps': 1, 'phases[1].steps': 3, 'eval.splits': {}, 'checkpoint.every': 1, 'summary': (),
      'tx.learning_rate': 1e-2, **overrides})
  c.models = dict(policy=policy, ref=dict(copy='policy'))
  c.heads = dict(value=dict(name='mlp_head', width=8), chance='tests.test_adapters.probability')
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='score', model='ref', into='ref_logp'),), 'tracks': dict(
      main=dict(estimator=(dict(name='gae', gamma=1., lam=.95),), loss=('ppo_clip', dict(name='kl', coef=.1), dict(name='value', coef=.1))),
      chance=dict(estimator=(dict(name='gae', gamma=1., lam=1., head='chance'),), loss=(dict(name='value', head='chance'),)))})
  c.phases[1]['transforms'] += tuple(dict(name='score', model='policy', head=h) for h in ('value', 'chance'))
  return c


def leaves(workdir):
  """path -> array of the newest checkpoint."""
  folder = os.path.join(workdir, 'checkpoints')
  _, path = checkpoint._find(folder, None)
  like = {}
  for name, leaf in checkpoint._stored(path).items():
    if 'shape' in leaf and leaf['kind'] == 'array':
      like[name] = np.zeros(leaf['shape'], leaf['dtype'])
  args = checkpoint._load(path, checkpoint._stored(path), list(like.items()))
  return dict(zip(like, args, strict=True))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp('adapted')
  return folder, list(train.iterate(small(folder, ADAPTED)))


def test_only_adapters_and_heads_are_kept(whole):
  folder, records = whole
  assert len(records) == 4 and all(r['skipped'] == 0 for r in records) and records[-1]['loss/chance'] > 0
  kept = leaves(folder)
  parameters = {n for n in kept if '/params/' in n or n.startswith('frozen/')}
  assert parameters and all('/heads/' in n or n.endswith(('/lora_a', '/lora_b')) for n in parameters)
  assert {n.split('/')[1] for n in parameters if n.startswith('frozen/')} == {'ref'}
  moments = [n for n in kept if 'opt_state' in n and ('mu' in n or 'nu' in n)]
  assert len(moments) == 2 * len([n for n in parameters if n.startswith('states/')])
  b = [n for n in parameters if n.endswith('lora_b')]
  assert all(np.abs(kept[n]).max() > 0 for n in b), 'the reference is the policy as its warm start left it'
  assert not os.path.exists(folder / 'base')


def test_continued_it_is_the_same(whole, tmp_path):
  folder, records = whole
  for stop in (1, 3):                       # in the first step of a phase, in the middle of one
    run = train.iterate(small(tmp_path / str(stop), ADAPTED))
    for _ in range(stop):
      next(run)
    run.close()
    again = list(train.iterate(small(tmp_path / str(stop), ADAPTED)))
    assert len(again) == 4 - stop and again[-1]['loss/main'] == records[-1]['loss/main']
    got, want = leaves(tmp_path / str(stop)), leaves(folder)
    assert set(got) == set(want)
    for name in want:
      np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_opened_again(whole):
  """All parameters: the base from the seed, shared by the copy, and what was trained."""
  folder, _ = whole
  run = session.load(str(folder))
  models, kept = run.world.models, leaves(folder)
  policy, params = models['policy'].policy, models['policy'].params
  fresh = jax.jit(policy.init)(jax.random.fold_in(jax.random.key(0), zlib.crc32(b'policy') & 0x7fffffff))
  mine, base = partition.partition({**params}, policy.trainable)
  assert jax.tree.structure(params['layers']) == jax.tree.structure(fresh['layers'])
  np.testing.assert_array_equal(params['lower']['mlp']['up']['kernel'], fresh['lower']['mlp']['up']['kernel'])
  np.testing.assert_array_equal(params['embed']['table'], fresh['embed']['table'])
  b = 'layers/attention/q/lora_b'
  np.testing.assert_array_equal(mine['layers']['attention']['q']['lora_b'], next(v for k, v in kept.items() if k.endswith('params/' + b)))
  shared = jax.tree.map(lambda x, y: x is y, base, partition.partition(models['ref'].params, policy.trainable)[1])
  assert jax.tree.all(shared) and models['ref'].params['layers']['attention']['q']['lora_b'] is not mine['layers']['attention']['q']['lora_b']
  assert isinstance(run.sample('1 + 2 ='), str)
  assert set(params['heads']) == {'value', 'chance'} and set(params['heads']['value']) == {'layers_0', 'layers_2'}


def test_from_a_run_without_adapters(tmp_path):
  """Its parameters become the base, which no checkpoint has: it is kept once."""
  plain = small(tmp_path / 'plain', POLICY)
  list(train.iterate(plain))
  theirs = session.load(plain.workdir).world.models['policy'].params
  c = small(tmp_path / 'run', ADAPTED, init_from=plain.workdir)
  c.seed = 3
  run = train.iterate(c)
  next(run)
  run.close()
  list(train.iterate(c))
  opened = session.load(c.workdir).world.models
  np.testing.assert_array_equal(opened['policy'].params['lower']['mlp']['up']['kernel'], theirs['layers']['mlp']['up']['kernel'][:1])
  np.testing.assert_array_equal(opened['ref'].params['layers']['mlp']['up']['kernel'], theirs['layers']['mlp']['up']['kernel'][1:])
  assert checkpoint.latest(tmp_path / 'run' / 'base') == 0


def test_adapters_and_layers_of_another_layout_are_inherited():
  """A model without adapters gets them merged, one with other layers frozen gets them where they belong; heads must fit."""
  made = lambda **kw: transformer(vocab=23, layers=3, dim=16, heads=2, ff=24, **kw)
  draw = np.random.default_rng(0)
  fill = lambda policy: jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape), jnp.float32), jax.eval_shape(policy.init, jax.random.key(0)))
  model = lambda **kw: (lambda policy: Model(policy, fill(policy), None))(made(**kw))
  theirs = model(freeze=2, lora=dict(rank=2, targets='q'))
  for kw in (dict(), dict(freeze=1), dict(lora=dict(rank=3))):
    got = course.inherit(dict(policy=model(**kw)), dict(policy=theirs), 'runs/theirs')['policy'].params
    plain = lora.whole({**got, 'layers': jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if path[-1].key == 'lora_b' else x, got['layers'])})
    jax.tree.map(np.testing.assert_array_equal, plain, lora.whole(theirs.params))
  for m in (model(lora=dict(rank=2, targets='q')), theirs):
    other = m._replace(params={**m.params, 'heads': dict(value=jnp.zeros(3))})
    with pytest.raises(config.ConfigError, match="'runs/theirs': its model 'policy' has other shapes than this config's"):
      course.inherit(dict(policy=other), dict(policy=theirs), 'runs/theirs')


def test_no_base_of_a_run_that_never_began(tmp_path):
  os.makedirs(tmp_path / 'run')
  checkpoint.save(tmp_path / 'run' / 'base', 0, dict(x=np.zeros(3)))
  next(run := train.iterate(small(tmp_path / 'run', ADAPTED)))
  run.close()
  assert not os.path.exists(tmp_path / 'run' / 'base')


@pytest.mark.parametrize('kw', [dict(freeze=1), dict(lora=dict(rank=2)), dict(freeze=1, lora=dict(rank=2, targets=('v', 'down')))],
                         ids=['frozen', 'adapters', 'both'])
def test_saved_and_loaded(tmp_path, kw):
  """Adapters are merged in the folder; loaded it may have new ones, and says the same."""
  size = dict(vocab=23, layers=3, dim=16, heads=4, kv_heads=2, ff=24, qkv_bias=True)
  policy = transformer(**size, **kw)
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda s: jnp.asarray(draw.normal(size=s.shape) * .3, jnp.float32), jax.eval_shape(policy.init, jax.random.key(0)))
  hf.save(str(tmp_path / 'out'), policy.config, params)
  again = pretrained(path=str(tmp_path / 'out'), **kw)
  place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  init = lambda key: assemble.with_heads(again.init(key), again, ('value',), key)
  places = jax.tree.map(lambda _: place, jax.eval_shape(init, jax.random.key(0)))
  fresh = assemble._parameters(again, init, jax.random.key(1), places)
  drawn = jax.jit(init)(jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, fresh.pop('heads'), drawn.pop('heads'))
  assert jax.tree.structure(fresh) == jax.tree.structure(params)
  for path, x in jax.tree_util.tree_leaves_with_path(fresh):
    if path[-1].key.startswith('lora_'):
      np.testing.assert_array_equal(x, functools.reduce(lambda tree, p: tree[p.key], path, drawn))
  said = lambda policy, params: jax.jit(functools.partial(forward, policy))(params, tokens()).logp
  np.testing.assert_allclose(said(again, fresh), said(policy, params), atol=1e-5)
  with open(tmp_path / 'out' / 'config.json', encoding='utf-8') as f:
    assert json.load(f)['num_hidden_layers'] == 3


def test_what_is_said_of_heads(tmp_path):
  c = small(tmp_path, POLICY)
  c.heads.valeu = 'value_head'
  with pytest.raises(config.ConfigError, match="c.heads names 'valeu', which no loss and no transform reads"):
    next(train.iterate(c))
  c = small(tmp_path, POLICY)
  c.heads.value = dict(name='mlp_head', width=0)
  with pytest.raises(config.ConfigError, match="head 'mlp_head': width=0"):
    next(train.iterate(c))
  c = small(tmp_path, dict(POLICY, lora=dict(rank=0)))
  with pytest.raises(config.ConfigError, match="policy 'transformer': lora.rank must be"):
    next(train.iterate(c))
