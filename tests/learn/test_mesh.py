"""Meshes, rules, batches on 8 virtual devices; the batch of several hosts."""

import logging
import os
import re
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import optax
import pytest

from rlx.learn import mesh as meshes
from rlx.learn.forward import forward
from rlx.types import Batch, Nodes, Policy, Tokens

RULES = (
    ('.*embedding', 'fsdp'),
    ('.*/(q|gate)/kernel', ('fsdp', 'tensor')),
    ('.*/bias', (None, 'fsdp', 'tensor')),
    ('.*/o/kernel', ('tensor', 'fsdp')),
    ('.*/scale', None),
)


def init(key, width=8, vocab=24, layers=3):
  k = jax.random.split(key, 4)
  return {'embedding': jax.random.normal(k[0], (vocab, width)),
          'layers': {'q': {'kernel': jax.random.normal(k[1], (layers, width, 16)), 'bias': jnp.zeros((layers, 16))},
                     'o': {'kernel': jax.random.normal(k[2], (layers, 16, width))},
                     'gate': {'kernel': jax.random.normal(k[3], (layers, width, 15))},
                     'scale': jnp.ones((layers, width))}}


def make_batch(rows=8, width=12, steps=6, prompts=2, seed=0, xp=jnp) -> Batch:
  rng = np.random.default_rng(seed)
  i32 = lambda x: xp.asarray(x, xp.int32)
  nodes = Nodes(parent=i32([-1, 0, 1, -1, 3, -1][:steps]), group=i32([0, 0, 0, 1, 1, 0][:steps]),
                valid=xp.asarray([True] * 5 + [False])[:steps], end=i32([0, 0, 1, 0, 1, 0][:steps]),
                reward={'task': xp.asarray(rng.random(steps), xp.float32)},
                label={'state': i32(rng.integers(4, size=steps))})
  where = rng.random((rows, width)) < .5
  tokens = Tokens(ids=i32(rng.integers(24, size=(rows, width))),
                  node=i32(np.where(where, rng.integers(5, size=(rows, width)), -1)),
                  segment=i32(np.repeat([[0] * 5 + [1] * 6 + [-1]], rows, 0)[:, :width]),
                  position=i32(np.repeat([[*range(5), *range(6), 0]], rows, 0)[:, :width]),
                  sampled=xp.asarray(where), mask=xp.asarray(where), logp=xp.zeros((rows, width), xp.float32))
  return Batch(nodes=nodes, tokens=tokens, prompt={'p': xp.asarray(rng.random(prompts), xp.float32)})


def specs(shardings):
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return {name(p): s.spec for p, s in jax.tree_util.tree_leaves_with_path(shardings)}


def test_create():
  mesh = meshes.create(2, 2, 2)
  assert mesh.axis_names == ('data', 'fsdp', 'tensor') and mesh.devices.shape == (2, 2, 2)
  assert all(t == jax.sharding.AxisType.Auto for t in mesh.axis_types)
  assert meshes.create().size == 1
  assert set(meshes.create(data=2, devices=jax.devices()[4:]).devices.flat) == set(jax.devices()[4:6])
  with pytest.raises(ValueError, match=r'data=4 x fsdp=4 x tensor=1 needs 16 devices, but there are 8 \(cpu\)'):
    meshes.create(4, 4)
  with pytest.raises(ValueError, match='data=0 x fsdp=1 x tensor=1 has a size below 1'):
    meshes.create(data=0)


def test_rules_choose_by_path_and_dims(caplog):
  meshes._log_whole.cache_clear()
  mesh = meshes.create(2, 2, 2)
  shapes = jax.eval_shape(init, jax.random.key(0))
  with caplog.at_level(logging.INFO, 'rlx.learn.mesh'):
    for _ in range(2):
      got = specs(meshes.shard_params(shapes, RULES, mesh))
  assert got == {
      'embedding': P('fsdp', None),                     # 24 is the largest dim
      'layers/q/kernel': P(None, 'fsdp', 'tensor'),     # the stack of layers stands in front
      'layers/q/bias': P(None, 'tensor'),               # more axes than dims: the first are left out; 3 does not divide
      'layers/o/kernel': P(None, 'tensor', 'fsdp'),
      'layers/gate/kernel': P(None, 'fsdp', None),      # 15 does not divide
      'layers/scale': P(None, None)}
  assert [r.getMessage() for r in caplog.records if 'gate' in r.getMessage()] == [
      'layers/gate/kernel (3, 8, 15) stays whole: no division over tensor = 2']


def test_an_optimizer_state_follows_the_same_rules():
  mesh = meshes.create(fsdp=2, tensor=2)
  shapes = jax.eval_shape(lambda key: optax.adam(1e-3).init(init(key)), jax.random.key(0))
  got = specs(meshes.shard_params(shapes, RULES, mesh))
  assert got['0/mu/layers/q/kernel'] == got['0/nu/layers/q/kernel'] == P(None, 'fsdp', 'tensor')
  assert got['0/count'] == P()


def test_rules_with_an_unknown_axis_are_refused():
  with pytest.raises(ValueError, match=r"rule '.\*' names the axis \['model'\]"):
    meshes.shard_params({'x': jnp.ones(4)}, (('.*', ('fsdp', ('data', 'model'))),), meshes.create())


def test_batches_split_rows_and_repeat_steps():
  mesh = meshes.create(2, 2, 2)
  batch = make_batch()
  shardings = meshes.shard_batch(jax.eval_shape(lambda: batch), mesh)
  assert jax.tree.structure(shardings) == jax.tree.structure(batch)
  placed = jax.device_put(batch, shardings)
  assert placed.tokens.ids.addressable_shards[0].data.shape == (2, 12)
  assert placed.nodes.reward['task'].sharding.is_fully_replicated and placed.prompt['p'].sharding.is_fully_replicated
  with pytest.raises(ValueError, match=r'6 rows do not divide over data=2 x fsdp=2; give the bucket a multiple of 4'):
    meshes.shard_batch(make_batch(rows=6), mesh)


def policy() -> Policy:
  def apply(params, ids, position, last, cache=None):
    x = params['embedding'][ids]
    i = jnp.arange(ids.shape[1])
    visible = ((i[None, None, :] <= i[None, :, None]) & (i[None, :, None] < last[:, None, :])).astype(jnp.float32)
    for n in range(3):
      layer = jax.tree.map(lambda p, n=n: p[n], params['layers'])
      seen = jnp.einsum('rij,rjd->rid', visible, x * layer['scale'][None, None]) / 8
      x = x + jnp.tanh(seen @ layer['q']['kernel'] + layer['q']['bias'][None, None]) @ layer['o']['kernel'] / 8
    return x, cache
  return Policy(init, apply, lambda params: params['embedding'].T, None)


def test_eight_devices_give_the_loss_and_gradient_of_one():
  """Data 2 x fsdp 2 x tensor 2; no device ever holds the hidden states of more than its own rows."""
  batch, params = make_batch(), init(jax.random.key(1))

  def loss(params, batch):
    out = forward(policy(), params, batch, temperature=.9, actions=9)
    return jnp.mean(jnp.where(batch.tokens.mask, out.logp * (1 + .1 * out.entropy), 0))

  def run(mesh):
    in_shardings = meshes.shard_params(params, RULES, mesh), meshes.shard_batch(batch, mesh)
    step = jax.jit(jax.value_and_grad(loss), in_shardings=in_shardings,
                   out_shardings=(meshes.replicated(mesh), in_shardings[0])).lower(params, batch).compile()
    return step(*jax.device_put((params, batch), in_shardings)), step.as_text()
  (want, want_grads), _ = run(meshes.create())
  (got, grads), text = run(meshes.create(2, 2, 2))
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grads, want_grads)
  assert grads['layers']['q']['kernel'].addressable_shards[0].data.shape == (3, 4, 8)
  rows = {int(x) for x in re.findall(r'f32\[(\d+),12,8\]', text)}     # hidden states `[R, T, D]`
  assert rows and max(rows) == 2


def test_offsets_of_a_second_host():
  for xp in (np, jnp):
    got = meshes.offset(make_batch(xp=xp), 2)
    np.testing.assert_array_equal(got.nodes.parent, [-1, 12, 13, -1, 15, -1])
    np.testing.assert_array_equal(got.nodes.group, [4, 4, 4, 5, 5, 0])       # two prompts a host; padding stays in 0
    own = make_batch(xp=xp)
    np.testing.assert_array_equal(got.tokens.node, np.where(own.tokens.node >= 0, np.asarray(own.tokens.node) + 12, -1))
    np.testing.assert_array_equal(got.nodes.label['state'], own.nodes.label['state'])
    assert got.nodes.group.dtype == np.int32 and isinstance(got.nodes.parent, type(own.nodes.parent))
  bare = Batch(nodes=own.nodes, tokens=own.tokens)
  np.testing.assert_array_equal(meshes.offset(bare, 1).nodes.group, [6, 6, 6, 7, 7, 0])
  assert all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (meshes.offset(own, 0), own)), strict=True))


def test_one_process_is_the_identity():
  batch = make_batch()
  assert meshes.globalise(batch, meshes.create()) is batch


HOST = """
import sys
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize('localhost:' + sys.argv[2], 2, int(sys.argv[1]))
sys.path.insert(0, sys.argv[3])
import numpy as np
from rlx import groups, tree
from rlx.learn import mesh as meshes
from test_mesh import make_batch
mesh = meshes.create(data=2, tensor=2)
me = jax.process_index()
batch = meshes.globalise(make_batch(rows=3, seed=me, xp=np), mesh)
both = [make_batch(rows=3, seed=p, xp=np) for p in range(2)]
assert batch.tokens.ids.shape == (6, 12) and batch.nodes.parent.shape == (12,) and batch.prompt['p'].shape == (4,)
for shard in batch.tokens.ids.addressable_shards:
  assert np.array_equal(shard.data, both[me].tokens.ids), 'rows stay where they were sampled'
def means(batch):
  ret, on = tree.returns(batch.nodes, 'task')
  mean = groups.group_stats(ret, batch.nodes.group, on).mean
  return mean, tree.above(mean, batch.tokens.node, -1.)
shardings = jax.tree.map(lambda x: x.sharding, batch)
per_node, per_token = jax.jit(means, out_shardings=(meshes.replicated(mesh), meshes.over_rows(mesh)))(batch)
want = [means(b) for b in both]
np.testing.assert_allclose(np.asarray(per_node)[6 * me:6 * me + 5], want[me][0][:5], rtol=1e-6)
np.testing.assert_allclose(np.asarray(per_token.addressable_shards[0].data), want[me][1], rtol=1e-6)
print('host', me, 'agrees')
"""


def test_two_real_processes():
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2', 'JAX_PLATFORMS': 'cpu'}
  hosts = [subprocess.Popen([sys.executable, '-c', HOST, str(n), str(port), os.path.dirname(__file__)], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(2)]
  for n, host in enumerate(hosts):
    out, err = host.communicate(timeout=120)
    assert f'host {n} agrees' in out, err[-2000:]
