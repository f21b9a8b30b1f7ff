"""Names to bound functions, schedules, overrides, command lines."""

import json
import shutil
import sys
import textwrap

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from rlx import assemble, config
from rlx.config import ConfigError, build, chain
from rlx.estimators.grpo import grpo
from rlx.losses.ppo_clip import ppo_clip
from rlx.types import Stateful


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """A package outside of rlx."""
  folder = tmp_path / 'lab_of_mine'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'mod.py').write_text(textwrap.dedent('''
      writes = ('stream/x',)
      constant = 3

      def fn(batch, *, gain: float = 1., times: int = 2):
        return batch * gain * times
      '''))
  monkeypatch.syspath_prepend(str(tmp_path))
  yield 'lab_of_mine.mod'
  for name in [n for n in sys.modules if n.startswith('lab_of_mine')]:
    del sys.modules[name]


# ---- build -------------------------------------------------------------------------------------------------------------

def test_a_name_a_dotted_name_a_callable_and_a_dict(lab):
  for spec in ('grpo', 'rlx.estimators.grpo.grpo', grpo, dict(name='grpo'), dict(name=grpo), ml_collections.ConfigDict(dict(name='grpo'))):
    b = build('estimator', spec)
    assert b.fn is grpo and b.name in ('grpo', 'rlx.estimators.grpo.grpo') and b.places == ('batch',)
  b = build('estimator', dict(name=f'{lab}.fn', gain=3., times=5))
  assert b.call(2) == 30 and b.writes == ('stream/x',)
  assert build('average', 'token_mean').fn.__module__ == 'rlx.average'
  assert build('estimator', lambda batch: batch).name == '<lambda>'


def test_floats_are_traced_and_all_else_is_static():
  ramp = dict(schedule='linear', start=0., end=1., steps=4)
  b = build('estimator', dict(name='grpo', eps=1e-4, clip=None, ddof=0, std=False, channel='x'))
  assert b.traced == dict(eps=1e-4) and b.static == dict(clip=None, ddof=0, std=False, channel='x')
  b = build('loss', ml_collections.ConfigDict(dict(name='ppo_clip', low=ramp, high=1)))
  assert set(b.traced) == {'low'} and b.static == dict(high=1)
  assert [float(b.floats(s)['low']) for s in (0, 1, 9)] == [0, .25, 1]
  assert all(type(x) is np.float32 for x in b.floats(2).values())
  # on the host floats stay floats
  assert build('tx', dict(name='adamw', learning_rate=.1)).static == dict(learning_rate=.1)
  assert not any(build('estimator', dict(name='grpo', **{k: v})).traced for k, v in dict(ddof=1, std=True, channel='a').items())


def test_a_traced_float_reaches_the_function():
  b = build('estimator', dict(name=lambda batch, *, gain: batch * gain, gain=2.))
  f = jax.jit(lambda x, floats: b.call(x, floats=floats))
  assert [float(f(jnp.float32(3), dict(gain=np.float32(g)))) for g in (2, 5)] == [6, 15] and f._cache_size() == 1
  assert b.call(3.) == 6.


def test_factories_are_functions_of_keywords_only():
  """Losses, stateful methods, environments; functions with a positional parameter are not called."""
  b = build('loss', dict(name='ppo_clip', low=.1))
  assert b.places == () and b.fn is ppo_clip and b.call().local
  stateful = lambda *, decay=.9: Stateful(lambda: 0., None)
  assert build('estimator', stateful).call().init() == 0.
  assert build('average', dict(name='constant', length=4)).places == () and build('average', 'seq_mean').places == ('batch', 'keep')


def test_what_the_loop_supplies_is_given_to_those_who_ask():
  def needy(batch, *, step, models, channel='task'):
    return batch, step, models, channel
  b = build('transform', dict(name=needy, channel='c'))
  assert b.takes == {'step', 'models'} and b.call(1, step=2, models=3, key=4) == (1, 2, 3, 'c')
  assert build('curriculum', dict(name='uniform', seed=7)).takes == {'env'}, 'a keyword of the config wins over the loop'


def test_unknown_keywords_list_what_there_is():
  takes = 'it takes channel, clip, ddof, eps, singleton, std, vectorised'
  with pytest.raises(ConfigError, match=rf"estimator 'grpo' has no keyword 'ddoff'; {takes}\. Did you mean 'ddof'\?"):
    build('estimator', dict(name='grpo', ddoff=1))
  with pytest.raises(ConfigError, match="loss 'entropy' has no keyword 'zz'; it takes nothing.$"):
    build('loss', dict(name='entropy', zz=1))
  with pytest.raises(ConfigError, match="has no keyword 'batch'"):
    build('estimator', dict(name='grpo', batch=1))
  assert build('estimator', dict(name=lambda batch, **kw: kw, zz=1.)).traced == dict(zz=1.), 'who takes everything gets everything'


@pytest.mark.parametrize(('kind', 'spec', 'message'), [
    ('estimator', 'grop', r"there is no estimator 'grop'; there are .*grpo.*\. Did you mean 'grpo'\?"),
    ('average', 'token', "there is no average 'token'; there are constant, original_tokens, seq_mean, token_mean, turn_mean"),
    ('average', '_count', "there is no average '_count'"),
    ('tokenizer', 'wrap', "there is no tokenizer 'wrap'; there are bpe, file"),
    ('env', 'sql_data', "there is no env 'sql_data'"),
    ('scorer', 'judge', "there is no scorer 'judge'; there are nothing"),
    ('estimater', 'grpo', "there is no kind 'estimater'; there are average, .*estimator"),
    ('average', dict(name='constant'), "average 'constant' needs length"),
    ('loss', dict(low=1.), "a loss is a name or a dict with a 'name', not {'low': 1.0}"),
    ('loss', None, "a loss is a name, a dotted name, a callable or a dict with a 'name', not None"),
    ('loss', 3, "not 3"),
    ('loss', 'nowhere.loss', "loss 'nowhere.loss' cannot be imported: No module named 'nowhere'"),
    ('loss', 'rlx.losses.kl.lk', "loss 'rlx.losses.kl.lk' cannot be imported: module 'rlx.losses.kl' has no attribute 'lk'"),
    ('loss', 'rlx.losses.kl.KINDS', r"loss 'rlx.losses.kl.KINDS' is \('k1', 'k2', 'k3'\), not a function"),
])
def test_what_cannot_be_built_says_so(kind, spec, message):
  with pytest.raises(ConfigError, match=message):
    build(kind, spec)


def test_a_broken_file_does_not_stand_in_the_way(tmp_path, monkeypatch):
  """A method that needs an extra is listed, and only naming it fails."""
  folder = tmp_path / 'crowd'
  folder.mkdir()
  (folder / '__init__.py').write_text('')
  (folder / 'fine.py').write_text('def fine(batch):\n  return batch\n')
  (folder / 'broken.py').write_text('import a_package_that_is_not_there\n\ndef broken(batch):\n  return batch\n')
  (folder / 'shared.py').write_text('def something_else():\n  pass\n')
  monkeypatch.syspath_prepend(str(tmp_path))
  monkeypatch.setitem(config.KINDS, 'estimator', 'crowd')
  assert config.names('estimator') == ['broken', 'fine']
  assert build('estimator', 'fine').call(3) == 3
  with pytest.raises(ConfigError, match="estimator 'broken' cannot be imported: No module named 'a_package_that_is_not_there'"):
    build('estimator', 'broken')
  with pytest.raises(ConfigError, match="no estimator 'shared'; there are broken, fine"):
    build('estimator', 'shared')


def test_every_listed_method_can_be_built():
  """And is a function of its own name; what the loop supplies and what has no default aside."""
  for kind in config.KINDS:
    for name in config.names(kind):
      assert config.resolve(kind, name).__name__ == name


def test_chains():
  assert [b.name for b in chain('loss', ('kl', dict(name='entropy')))] == ['kl', 'entropy']
  assert [b.name for b in chain('loss', 'kl')] == ['kl'] and chain('selector', ()) == ()
  assert [b.name for b in chain('loss', dict(name='kl', kind='k1'))] == ['kl']


# ---- schedules ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('spec', 'want'), [
    (dict(schedule='constant', value=3), {0: 3, 100: 3}),
    (dict(schedule='linear', start=1, end=0, steps=4), {-1: 1, 0: 1, 1: .75, 4: 0, 9: 0}),
    (dict(schedule='cosine', start=1., end=.5, steps=4), {0: 1, 1: .75 + .25 * 2**-.5, 2: .75, 4: .5, 9: .5}),
    (dict(schedule='warmup_cosine', peak=2., warmup=4, steps=8, end=1.), {0: 0, 1: .5, 4: 2, 6: 1.5, 8: 1, 20: 1}),
    (dict(schedule='warmup_cosine', peak=2., warmup=0, steps=2, end=0.), {0: 2, 1: 1, 2: 0}),
])
def test_schedules(spec, want):
  """The same number on the host and traced, f32."""
  f = config.schedule(spec)
  for t, y in want.items():
    assert float(f(t)) == pytest.approx(y, abs=1e-6)
  traced = jax.jit(f)
  for t, y in want.items():
    assert float(traced(jnp.int32(t))) == pytest.approx(y, abs=1e-6)
  assert traced(jnp.int32(0)).dtype == jnp.float32 and traced._cache_size() == 1


def test_schedules_that_do_not_exist():
  with pytest.raises(ConfigError, match="schedule 'lineal' does not exist; there are constant, cosine, linear and warmup_cosine"):
    config.schedule(dict(schedule='lineal'))
  with pytest.raises(ConfigError, match="schedule 'linear' takes end, start, steps, not end, start"):
    config.schedule(dict(schedule='linear', start=0, end=1))


# ---- overrides ---------------------------------------------------------------------------------------------------------

def run_config():
  c = ml_collections.ConfigDict(dict(
      seed=0, minibatch=8, none=None, sampler=dict(width=64, stop=('a',)), models=dict(policy=dict(name='transformer', dim=8)),
      tracks=dict(main=dict(estimator=('grpo', dict(name='empg')), loss=(dict(name='ppo_clip', low=.1),), average='token_mean')),
      phases=(dict(name='warm', steps=3, source='expert'), dict(name='rl', steps=5, source=dict(name='rollout')))), type_safe=False)
  return c.lock()


def test_overrides_reach_every_depth():
  c = config.override(run_config(), {
      'seed': 3, 'none': 'x', 'sampler.width': 32, 'models.policy.layers': 4, 'tracks.main.estimator[0].ddof': 0,
      'tracks.main.estimator[-1].weight': .5, 'tracks.main.loss[0].low': .3, 'tracks.main.average.length': 7, 'phases[1].steps': 9,
      'phases[0].source.count': 2, 'phases[1].source.split': 'held'})
  assert (c.seed, c.none, c.sampler.width, c.sampler.stop) == (3, 'x', 32, ('a',))
  assert c.models.policy.to_dict() == dict(name='transformer', dim=8, layers=4)
  assert c.tracks.main.estimator == (dict(name='grpo', ddof=0), dict(name='empg', weight=.5))
  assert c.tracks.main.loss == (dict(name='ppo_clip', low=.3),) and c.tracks.main.average.to_dict() == dict(name='token_mean', length=7)
  assert c.phases[0]['source'] == dict(name='expert', count=2) and c.phases[1]['steps'] == 9
  assert c.phases[1]['source'] == dict(name='rollout', split='held')
  mine = lambda batch: batch
  assert config.override(c, {'tracks.main.estimator': (mine,)}).tracks.main.estimator == (mine,)


def test_an_override_leaves_the_config_it_came_from_alone():
  """Specs are shared between phases and copies: they are rebuilt, not written to."""
  c = run_config()
  loss = c.tracks.main.loss
  d = c.copy_and_resolve_references()
  config.override(d, {'tracks.main.loss[0].low': .9, 'phases[0].steps': 1, 'models.policy.dim': 1})
  assert loss == (dict(name='ppo_clip', low=.1),) and c.tracks.main.loss[0]['low'] == .1
  assert c.phases[0]['steps'] == 3 and c.models.policy.dim == 8


@pytest.mark.parametrize(('key', 'message'), [
    ('minibach', "no key 'minibach'; beside 'minibach' there is .*minibatch.*Did you mean 'minibatch'"),
    ('sampler.wdith', "no key 'sampler.wdith'; beside 'wdith' there is stop, width. Did you mean 'width'"),
    ('tracks.mian.coef', "no key 'tracks.mian.coef'; beside 'mian' there is main"),
    ('phases[2].steps', r"there are 2 entries, not \[2\]"),
    ('phases[-3].steps', r"there are 2 entries, not \[-3\]"),
    ('minibatch.size', "'size' stands below 8, which has no keys"),
    ('seed[0]', r"there are 0 entries, not \[0\]"),
])
def test_a_key_that_is_not_there(key, message):
  with pytest.raises(ConfigError, match=message):
    config.override(run_config(), {key: 1})


def test_command_lines():
  flags, values = config.arguments(['--config', 'a.py:small', '--check', '--config.seed=3', '--config.x.y[0].z', '-1.5',
                                    '--config.name=quick start', '--config.t=(1, "a")', '--config.n=None', '--config.empty=', '--config.yes=true', '--config.no=false',
                                    '--workdir=/tmp/x=y', '--config.s=1e-3', '--config.path=a/b'])
  assert flags == dict(config='a.py:small', check=True, workdir='/tmp/x=y')
  assert values == {'seed': 3, 'x.y[0].z': -1.5, 'name': 'quick start', 't': (1, 'a'), 'n': None, 'empty': '', 'yes': True, 'no': False,
                    's': 1e-3, 'path': 'a/b'}
  with pytest.raises(ConfigError, match="'stray' is not an option; options begin with --"):
    config.arguments(['stray'])
  with pytest.raises(ConfigError, match="'--config.seed' needs a value: --config.seed=VALUE"):
    config.arguments(['--config.seed', '--check'])


# ---- files -------------------------------------------------------------------------------------------------------------

def test_load_variants_and_smoke(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text(textwrap.dedent('''
      from configs import base

      def get_config(size='small'):
        c = base.get_config()
        c.name = 'mine'
        c.minibatch = dict(small=4, large=64)[size]
        c.smoke = (('sampler.slots', 2),)
        return c
      '''))
  assert config.load(str(file)).minibatch == 4 and config.load(f'{file}:large').minibatch == 64
  c = config.load(f'{file}:smoke', {'seed': 5})
  assert (c.name, c.seed, c.sampler.slots, c.eval.prompts) == ('mine-smoke', 5, 2, 8) and [p['steps'] for p in c.phases] == [2]
  with pytest.raises(ConfigError, match="no key 'sed'"):
    config.load(str(file), {'sed': 5})
  bare = tmp_path / 'bare.py'
  bare.write_text('x = 1\n')
  with pytest.raises(ConfigError, match=r'has no function get_config\(\)'):
    config.load(str(bare))
  with pytest.raises(ConfigError, match='does not exist; give --config a path'):
    config.load(str(tmp_path / 'nowhere.py'))


def test_plain():
  c = ml_collections.ConfigDict(dict(a=(1, dict(b=None)), f=grpo))
  assert config.plain(c) == dict(a=[1, dict(b=None)], f='function:rlx.estimators.grpo:grpo')
  assert config.revived(json.loads(json.dumps(config.plain(c)))) == dict(a=(1, dict(b=None)), f=grpo)


def test_functions_of_a_config_file_come_back(tmp_path):
  file = tmp_path / 'mine.py'
  file.write_text('from rlx import config\ndef judge(x):\n  return x + 1\n\nclass World:\n  pass\n\ndef get_config():\n'
                  "  return config.ml_collections.ConfigDict(dict(name='mine', a=(dict(judge=judge),), env=World, b=lambda x: x))\n")
  kept = json.loads(json.dumps(config.plain(config.load(str(file)))))
  assert config.revived(kept['a'])[0]['judge'](1) == 2 and config.revived(kept['env']).__name__ == 'World'
  assert config.nameless(kept) == [f'{file}:get_config.<locals>.<lambda>']
  with pytest.raises(ConfigError, match='must have a name in a module'):
    config.revived(kept['b'])
  moved = tmp_path / 'elsewhere'
  moved.mkdir()
  there = config.load(shutil.copy(file, moved))
  assert config.plain(there)['a'] != kept['a'] and assemble.fingerprint(there) == assemble.fingerprint(kept)
  file.unlink()
  with pytest.raises(ConfigError, match=r"the function 'judge' of '.*mine.py', which is not found here"):
    config.revived(kept['a'])


def test_numbers_of_numpy_are_plain():
  got = config.plain(dict(a=np.float64(.5), b=(np.int32(3), np.bool_(True))))
  assert got == dict(a=.5, b=[3, True]) and [type(x) for x in (got['a'], *got['b'])] == [float, int, bool]
