"""Checkpoints: exact round trips, atomicity under kill -9, retention, and what is said when something does not fit."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
import typing

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
import numpy as np
import optax
import pytest

from rlx.learn import checkpoint
from rlx.learn import mesh as meshes
from rlx.types import struct


@struct
class State:
  params: typing.Any
  opt_state: typing.Any
  carry: typing.Any


def state_of(seed=0) -> State:
  rng = np.random.default_rng(seed)
  f32 = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  params = {'layers': {'q': f32(3, 4, 8), 'scale': f32(3, 4).astype(jnp.bfloat16)}, 'embedding': f32(6, 4)}
  tx = optax.chain(optax.clip_by_global_norm(1.), optax.adamw(optax.linear_schedule(1., 0., 9)))
  carry = {'none': (), 'empty': {}, 'list': [f32(2), {}], 'unset': None, 'key': jax.random.key(seed),
           'keys': jax.random.split(jax.random.key(seed, impl='rbg'), 3), 'no_keys': jax.random.split(jax.random.key(0), 0),
           'int': 2**70 + seed, 'float': .1 + seed, 'inf': float('inf'), 'flag': True, 'name': 'warm',
           'np64': rng.standard_normal(5), 'np_int': np.array([2**60 + 1]), 'np_bool': np.array([[True], [False]]),
           'np_scalar': np.float32(.3), 'np_t': rng.standard_normal((3, 4)).T, 'scalar': jnp.float32(.7),
           'zero_size': jnp.zeros((0, 3)), 'np_zero_size': np.zeros((2, 0), np.int8),
           'nan': jnp.array([np.nan, -0., np.inf])}
  return State(params=params, opt_state=tx.init(params), carry=carry)


def bits(x):
  if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    return str(jax.random.key_impl(x)), bits(jax.random.key_data(x))
  if isinstance(x, (jax.Array, np.ndarray, np.generic)):
    x = np.asarray(x)
    return str(x.dtype), x.shape, x.tobytes()
  return type(x).__name__, repr(x)


def same(got, want):
  assert jax.tree.structure(got) == jax.tree.structure(want)
  for (path, g), w in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(want), strict=True):
    assert bits(g) == bits(w), path
    assert all(isinstance(g, kind) == isinstance(w, kind) for kind in (jax.Array, np.ndarray, np.generic)), path


def test_everything_comes_back_bit_for_bit(tmp_path):
  meta = {'course': {'step': 3, 'drawn': [1, 2.5, None, 'ü']}, 'ok': True}
  checkpoint.save(tmp_path, 7, state_of(1), meta=meta)
  state, back, step = checkpoint.restore(tmp_path, state_of(2))
  same(state, state_of(1))
  assert (back, step) == (meta, 7) and checkpoint.restore(tmp_path, {}, subset=True) == ({}, meta, 7)
  assert not state.params['embedding'].committed           # as it was, or the resumed run would compile anew
  assert not [f for f in pathlib.Path(tmp_path).rglob('*') if f.suffix in ('.pkl', '.pickle')]


def test_shapes_are_enough_to_restore(tmp_path):
  params = state_of(1).params
  key = jax.random.key(5)
  checkpoint.save(tmp_path, 1, {'params': params, 'key': key})
  like = jax.eval_shape(lambda: {'params': state_of(1).params, 'key': jax.random.key(0)})
  same(checkpoint.restore(tmp_path, like)[0], {'params': params, 'key': key})


def test_arrays_go_where_like_has_them(tmp_path):
  """Saved from one device, restored onto eight, saved from there, restored onto one."""
  mesh = meshes.create(2, 2, 2)
  params = state_of(1).params | {'key': jax.random.key(3)}
  checkpoint.save(tmp_path, 1, params)
  rules = (('.*/q', ('fsdp', 'tensor')), ('embedding', 'fsdp'))
  like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                      params, meshes.shard_params(params, rules, mesh))
  spread, _, _ = checkpoint.restore(tmp_path, like)
  same(spread, params)
  assert spread['layers']['q'].sharding == NamedSharding(mesh, P(None, 'fsdp', 'tensor'))
  assert spread['layers']['q'].addressable_shards[0].data.shape == (3, 2, 4)
  checkpoint.save(tmp_path, 2, spread)
  same(checkpoint.restore(tmp_path, params)[0], params)


def test_the_last_ones_and_the_best_one_stay(tmp_path):
  assert checkpoint.latest(tmp_path) is None and checkpoint.best(tmp_path / 'nothing') is None
  for step, metric in enumerate([.1, .9, float('nan'), .9, .2, None], start=1):
    checkpoint.save(tmp_path, step, {'x': jnp.float32(step)}, keep=2, best=metric)
  assert sorted(os.listdir(tmp_path)) == ['00000004', '00000005', '00000006']
  assert checkpoint.latest(tmp_path) == 6 and checkpoint.best(tmp_path) == 4
  assert float(checkpoint.restore(tmp_path, {'x': jnp.float32(0)}, checkpoint.best(tmp_path))[0]['x']) == 4
  with pytest.raises(checkpoint.CheckpointError, match=r'no checkpoint of step 3 in .*; there are \[4, 5, 6\]'):
    checkpoint.restore(tmp_path, {}, 3)
  with pytest.raises(ValueError, match='keep=0 would leave no checkpoint'):
    checkpoint.save(tmp_path, 9, {}, keep=0)


def test_a_step_is_replaced_and_an_abandoned_future_is_refused(tmp_path):
  x = {'x': jnp.float32(0)}
  for value in (1., 2., 3.):
    checkpoint.save(tmp_path, 5, {'x': jnp.float32(value)}, meta={'value': value}, keep=1)
    assert len(os.listdir(tmp_path)) == 1 and float(checkpoint.restore(tmp_path, x, 5)[0]['x']) == value
  shutil.copytree(tmp_path / '00000005.2', tmp_path / '00000005.9')     # killed before the older one was removed
  (tmp_path / '00000005.9' / 'meta.json').write_text('{"value": 9}')
  assert checkpoint.restore(tmp_path, x)[1]['value'] == 9
  checkpoint.save(tmp_path, 6, x)
  assert sorted(os.listdir(tmp_path)) == ['00000005.9', '00000006']
  with pytest.raises(checkpoint.CheckpointError, match='holds a checkpoint of step 6 already, so step 2 would never be'):
    checkpoint.save(tmp_path, 2, x)


def test_what_a_killed_save_leaves_is_not_seen_and_goes_away(tmp_path):
  checkpoint.save(tmp_path, 1, {'x': jnp.float32(1)})
  shutil.copytree(tmp_path / '00000001', tmp_path / 'tmp-2')                      # killed before the rename
  shutil.copytree(tmp_path / '00000001', tmp_path / 'tmp-old-00000000')           # killed while an old one was removed
  (tmp_path / '00000003').mkdir()                                                 # not ours
  (tmp_path / 'notes').mkdir()
  assert checkpoint.latest(tmp_path) == 1
  checkpoint.clean(tmp_path)
  assert sorted(os.listdir(tmp_path)) == ['00000001', '00000003', 'notes']


def test_half_a_removal_is_not_seen(tmp_path, monkeypatch):
  """Killed while an old checkpoint was removed: what is left of it must not look like one."""
  checkpoint.save(tmp_path, 1, {'x': jnp.float32(1)})

  def killed(path):
    os.remove(os.path.join(path, 'meta.json'))
    raise KeyboardInterrupt
  with monkeypatch.context() as m:
    m.setattr(checkpoint.shutil, 'rmtree', killed)
    with pytest.raises(KeyboardInterrupt):
      checkpoint.save(tmp_path, 2, {'x': jnp.float32(2)}, keep=1)
  assert checkpoint.latest(tmp_path) == 2
  with pytest.raises(checkpoint.CheckpointError, match=r'there are \[2\]'):
    checkpoint.restore(tmp_path, {}, 1)
  checkpoint.clean(tmp_path)
  assert os.listdir(tmp_path) == ['00000002']


LIKE = {'params': {'w': jnp.zeros((3, 4)), 'b': jnp.zeros(4)}, 'count': 3, 'key': jax.random.key(0)}


@pytest.mark.parametrize('change,message', [
    (lambda s: s['params'].update(w=jnp.zeros((3, 5))), r"leaf 'params/w' of .* is float32\[3, 4\], but float32\[3, 5\] is"),
    (lambda s: s['params'].update(b=jnp.zeros(4, jnp.bfloat16)), r"leaf 'params/b' of .* is float32\[4\], but bfloat16\[4\]"),
    (lambda s: s.update(count=jnp.int32(3)), r"leaf 'count' of .* is python int, but int32\[\] is asked"),
    (lambda s: s.update(count=3.), r"leaf 'count' of .* is python int, but python float is asked"),
    (lambda s: s.update(key=jax.random.key(0, impl='rbg')), r"leaf 'key' of .* is key<fry>\[\], but key<rbg>\[\] is"),
    (lambda s: s['params'].update(head=jnp.zeros(2)), r"the checkpoint .*00000001 has no leaf 'params/head'"),
    (lambda s: s['params'].pop('b'), r"the checkpoint .*00000001 has a leaf 'params/b' that is not asked for"),
    (lambda s: s.update(params=[jnp.zeros((3, 4)), jnp.zeros(4)]), r"has no leaf 'params/0'"),
])
def test_a_tree_that_does_not_fit_is_named(tmp_path_factory, change, message):
  folder = tmp_path_factory.getbasetemp() / 'shared'
  if not folder.exists():
    checkpoint.save(folder, 1, LIKE)
  like = {**LIKE, 'params': dict(LIKE['params'])}
  change(like)
  with pytest.raises(checkpoint.CheckpointError, match=message) as e:
    checkpoint.restore(folder, like)
  assert '\n' not in str(e.value)


def test_a_part_can_be_restored(tmp_path):
  checkpoint.save(tmp_path, 1, LIKE)
  like = {'params': {'w': jnp.ones((3, 4))}}
  same(checkpoint.restore(tmp_path, like, subset=True)[0], {'params': {'w': LIKE['params']['w']}})


@pytest.mark.parametrize('state,meta,message', [
    ({'x': object()}, {}, "leaf 'x' is a object, which a checkpoint cannot store"),
    ({'x': [np.array(['a'])]}, {}, "leaf 'x/0' is a ndarray of <U1, which"),
    ({'x': np.array([1], 'm8[s]')}, {}, r"leaf 'x' is a ndarray of timedelta64\[s\], which"),
    ({'x': jax.ShapeDtypeStruct((), jnp.float32)}, {}, 'which a checkpoint cannot store'),
    ({'a/b': 1, 'a': {'b': 2}}, {}, "two leaves are called 'a/b'"),
    ({}, {'seen': {'ids': (1, 2)}}, 'meta/seen/ids is a tuple, which JSON does not give back as it was'),
    ({}, {'seen': [{1: 2}]}, 'meta/seen/0 has the key 1, which JSON turns into a string'),
    ({}, {'loss': np.float32(1)}, 'meta/loss is a float32'),
])
def test_what_cannot_be_stored_exactly_is_refused(tmp_path, state, meta, message):
  with pytest.raises(TypeError, match=message):
    checkpoint.save(tmp_path, 1, state, meta=meta)
  assert not os.listdir(tmp_path)


def test_nothing_there(tmp_path):
  with pytest.raises(checkpoint.CheckpointError, match=f'there is no checkpoint in {tmp_path}'):
    checkpoint.restore(tmp_path, {})


def test_a_damaged_checkpoint_says_so(tmp_path, capfd):
  checkpoint.save(tmp_path, 1, LIKE)
  shutil.rmtree(tmp_path / '00000001' / 'arrays')
  with pytest.raises(checkpoint.CheckpointError, match='cannot read the checkpoint .*00000001'):
    checkpoint.restore(tmp_path, LIKE)
  assert capfd.readouterr().err == ''


def test_an_unwritable_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(checkpoint.CheckpointError, match=r'cannot write the checkpoint of step 1 to .*file/x: .*Not a directory'):
    checkpoint.save(tmp_path / 'file' / 'x', 1, LIKE)


FULL = """
import resource, sys
import jax.numpy as jnp, numpy as np
from rlx.learn import checkpoint
big = {'x': jnp.asarray(np.random.default_rng(0).standard_normal(500_000), jnp.float32)}
checkpoint.save(sys.argv[1], 1, big)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
  checkpoint.save(sys.argv[1], 2, big)
except checkpoint.CheckpointError as e:
  print('said:', e)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
checkpoint.save(sys.argv[1], 3, big)
"""


def test_a_full_disk_leaves_the_older_checkpoint_and_says_so(tmp_path):
  """The limit on the size of a file stands in for a disk that is full."""
  done = subprocess.run([sys.executable, '-W', 'error', '-c', FULL, tmp_path], capture_output=True, text=True,
                        check=True, timeout=120)
  assert done.stdout == (f'said: cannot write the checkpoint of step 2 to {tmp_path}: File too large; '
                         'older checkpoints are as they were\n') and done.stderr == '', done
  assert sorted(os.listdir(tmp_path)) == ['00000001', '00000003']


LOOP = """
import sys
import jax, jax.numpy as jnp, numpy as np
from rlx.learn import checkpoint
step = (checkpoint.latest(sys.argv[1]) or 0) + 1
print('ready', flush=True)
while True:
  x = {f'w{n}': jnp.full((40, 100), step + n, jnp.float32) for n in range(8)} | {'key': jax.random.key(step), 'n': step}
  checkpoint.save(sys.argv[1], step, x, meta={'step': step, 'filler': ['x' * 100] * 200}, keep=1, best=-step)
  step += 1
"""


def test_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
  """Four processes save as fast as they can and are killed; each goes on where the last one was."""
  rng, seen = random.Random(0), 0
  like = {f'w{n}': jnp.zeros((40, 100)) for n in range(8)} | {'key': jax.random.key(0), 'n': 0}
  leftovers = 0
  for _ in range(4):
    with subprocess.Popen([sys.executable, '-c', LOOP, tmp_path], stdout=subprocess.PIPE, text=True) as process:
      assert process.stdout.readline() == 'ready\n'
      while (checkpoint.latest(tmp_path) or 0) <= seen:
        assert process.poll() is None
        time.sleep(.01)
      time.sleep(rng.random() * .3)
      process.send_signal(signal.SIGKILL)
    leftovers += any(name.startswith('tmp-') for name in os.listdir(tmp_path))
    state, meta, step = checkpoint.restore(tmp_path, like)
    assert step > seen and meta['step'] == state['n'] == step
    assert bits(state['key']) == bits(jax.random.key(step))
    assert all(np.all(np.asarray(state[f'w{n}']) == step + n) for n in range(8))
    seen = step
  assert leftovers, 'no kill fell into a save: this test has shown nothing'
  checkpoint.save(tmp_path, seen + 1, like)
  assert not [name for name in os.listdir(tmp_path) if name.startswith('tmp-')]


def test_saving_a_million_parameters_is_quick_and_quiet(tmp_path, capfd):
  """1.2 million parameters with Adam's moments: 0.1 s on 2 quiet cores; the bound leaves room for a busy machine."""
  rng = np.random.default_rng(0)
  params = {f'layer{n}': jnp.asarray(rng.standard_normal((60, 1000)), jnp.float32) for n in range(20)}
  state = dict(params=params, opt_state=optax.adam(1e-3).init(params))
  times = []
  for step in range(3):
    start = time.perf_counter()
    checkpoint.save(tmp_path, step, state)
    times.append(time.perf_counter() - start)
  assert min(times) < 1., times
  start = time.perf_counter()
  checkpoint.restore(tmp_path, state)
  assert time.perf_counter() - start < 3.
  out = capfd.readouterr()
  assert out.out == out.err == ''
