"""Parameters in two parts: only the trained ones have moments, change, and are kept; one device or eight."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble
from rlx.learn import checkpoint, partition, state
from rlx.learn import mesh as meshes
from rlx.learn import step as steps
from rlx.models.transformer import transformer
from rlx.types import Model
from tests.learn.test_devices import BUCKET, stored
from tests.policies import bag

SIZES = dict(vocab=48, layers=2, dim=16, heads=2, ff=32)
RULES = (('embed/.*', ('tensor', 'fsdp')), ('.*/(q|k|v|gate|up)/kernel', ('fsdp', 'tensor')), ('.*/lora_a', (None, 'fsdp', None)),
         ('.*/lora_b', ('fsdp', 'tensor')))
WAYS = dict(adapters=dict(lora=dict(rank=2)), frozen=dict(freeze=1), all={})
TRACKS = dict(main=dict(estimator='grpo', loss=('ppo_clip', dict(name='kl', coef=.1))), value=dict(estimator='ones', loss=(dict(name='sft'),)))


def test_parts_and_the_whole():
  params = dict(a=1, b=dict(c=2, d=3), heads=dict(v=4))
  trained, base = partition.partition(params, lambda path: path == 'b/c')
  assert trained == dict(a=None, b=dict(c=2, d=None), heads=dict(v=4)) and base == dict(a=1, b=dict(c=None, d=3), heads=dict(v=None))
  assert partition.combine(trained, base) == params and partition.rest(params, trained) == base
  assert partition.partition(params, None) == (params, None) and partition.combine(params, None) is params
  assert partition.trained(bag(), params) is params


def run(way, mesh=None, part=None):
  """Two updates; (first parameters, state, base, metrics, programs)."""
  mesh, part = mesh or meshes.create(devices=jax.devices()[:1]), part or stored()
  policy = transformer(**SIZES, **WAYS[way])
  tracks, tx = assemble.tracks(TRACKS), assemble.optimizer(dict(name='adamw', learning_rate=1e-2, weight_decay=.1))
  learner = assemble.Learner('policy', 'policy', tracks, tx, 1, 8, None, 'row', 1, 'policy')
  first = jax.device_get(jax.jit(policy.init)(jax.random.key(1)))
  params = jax.device_put(first, meshes.shard_params(first, RULES, mesh)) if mesh.size > 1 else jax.tree.map(jnp.array, first)
  fns = steps.make((learner,), (), {'policy': Model(policy, params, None)}, mesh, (BUCKET,), temperature=.9)
  mine, base = partition.partition(params, policy.trainable)
  st, told = state.create(mine, tx, tracks), []
  for _ in range(2):
    whole = {'policy': partition.combine(st.params, base)}
    st, results, _ = steps.learn(fns, learner, st, whole, steps.put(part.batch, mesh), part, step=0, key=jax.random.key(2))
    told += jax.device_get(results)
  return first, st, base, told, steps.compiles(fns)


@pytest.mark.parametrize('way', ['adapters', 'frozen'])
def test_only_the_trained_part_moves_and_is_kept(way, tmp_path):
  first, st, base, told, compiled = run(way)
  policy = transformer(**SIZES, **WAYS[way])
  mine, other = partition.partition(first, policy.trainable)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(base), other)
  moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), mine, jax.device_get(st.params))
  assert min(jax.tree.leaves(moved)) > 1e-4, moved
  assert compiled == 2 and all(t['skipped'] == 0 for t in told)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  assert size(st.params) == size(mine) < size(first)
  assert size(st.opt_state) < 2 * size(mine) + 64
  checkpoint.save(tmp_path, 1, st)
  names = {leaf['path'] for leaf in checkpoint._stored(tmp_path / '00000001').values()}
  held = [n for n in names if 'kernel' in n or 'lora' in n or 'table' in n]
  if way == 'adapters':
    assert held and all('lora_a' in n or 'lora_b' in n for n in held)
  else:
    assert held and not any('lower' in n or 'table' in n for n in held)
  back = checkpoint.restore(tmp_path, st)[0]
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(dataclasses.asdict(back)), jax.device_get(dataclasses.asdict(st)))


def test_upper_layers_move_as_they_would_in_a_whole_update():
  """One update by plain descent: what is trained changes by what it changes by where all is trained."""
  tracks, moved = assemble.tracks(TRACKS), {}
  part, tx = stored(), assemble.optimizer(dict(name='sgd', learning_rate=.1, clip=None))
  for way in ('frozen', 'all'):
    policy = transformer(**SIZES, **WAYS[way])
    learner = assemble.Learner('policy', 'policy', tracks, tx, 1, 8, 4, 'row', 1, 'policy')
    params = jax.jit(policy.init)(jax.random.key(1))
    fns = steps.make((learner,), (), {'policy': Model(policy, params, None)}, meshes.create(devices=jax.devices()[:1]), (BUCKET,),
                     temperature=.9)
    st = state.create(jax.tree.map(jnp.copy, partition.trained(policy, params)), tx, tracks)
    st, _, _ = steps.learn(fns, learner, st, {'policy': params}, part.batch, part, step=0, key=jax.random.key(2))
    moved[way] = jax.device_get(st.params['layers'])
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b[1:], atol=1e-6, rtol=1e-5), moved['frozen'], moved['all'])


@pytest.mark.parametrize('way', ['adapters', 'frozen'])
def test_eight_devices_give_what_one_gives(way):
  part = stored()
  _, one, _, want, _ = run(way, part=part)
  _, eight, base, got, compiled = run(way, meshes.create(2, 2, 2), part)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3, rtol=1e-3), jax.device_get(eight.params), jax.device_get(one.params))
  for w, g in zip(want, got, strict=True):
    np.testing.assert_allclose(g['loss/main'], w['loss/main'], rtol=1e-4, atol=1e-4)
  assert compiled == 2
  q = eight.params['layers']['attention']['q']
  if way == 'adapters':
    assert q['lora_a'].addressable_shards[0].data.shape == (2, 8, 2) and q['lora_b'].addressable_shards[0].data.shape == (2, 1, 8)
    assert base['layers']['attention']['q']['kernel'].addressable_shards[0].data.shape == (2, 8, 8)
  else:
    assert q['kernel'].addressable_shards[0].data.shape == (1, 8, 8)
    assert base['lower']['attention']['q']['kernel'].addressable_shards[0].data.shape == (1, 8, 8)
