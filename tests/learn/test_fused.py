"""The update whose gradient is made in the head's forward pass is the update, for every local loss there is."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx import assemble, config, toy
from rlx import losses as folder
from rlx.learn import mesh as meshes
from rlx.learn import objective
from rlx.learn import state as states
from rlx.types import Loss
from tests.policies import bag

POLICY, KEY = bag(), jax.random.key(0)
PARAMS = POLICY.init(jax.random.key(1))
ROWS = jnp.asarray([0, 3, 2, 1, 5, -1, 4, -1], jnp.int32)      # two are padding
STREAMS = ('ref_logp', 'old_logp', 'sampler_logp', 'entropy')


def batch():
  """Nine steps in three prompts, with a branch that is not credited; every token has its own temperature."""
  rng = np.random.default_rng(0)
  b = toy.batch([-1, 0, -1, 2, -1, 4, 4, -1, -1], group=[0, 0, 0, 0, 1, 1, 1, 2, 2], end=[0, 1, 0, 1, 0, 1, 1, 2, 3],
                task=[0, 1, 0, 0, 0, 1, 0, 2, 9], n_tokens=[2, 3, 1, 2, 2, 1, 3, 4, 2], n_obs=1)
  shape = b.tokens.ids.shape
  drawn = lambda: jnp.where(b.tokens.sampled, jnp.asarray(rng.normal(size=shape) * .3 - 4, jnp.float32), 0.)
  return dataclasses.replace(b, tokens=dataclasses.replace(
      b.tokens, ids=jnp.asarray(rng.integers(0, 64, shape), jnp.int32), logp=drawn(),
      stream={**{name: drawn() for name in STREAMS}, 'temperature': jnp.asarray(rng.uniform(.5, 1.5, shape), jnp.float32)}))


B = batch()


def credits_of(tracks):
  """Advantages, and kept tokens of which a selector has dropped some."""
  shape = B.tokens.ids.shape
  draw = lambda n: jax.random.normal(jax.random.fold_in(KEY, n), shape)
  return {name: objective.Credit(adv=jnp.where(B.tokens.mask, draw(2 * n), 0.), keep=B.tokens.mask & (draw(2 * n + 1) < 1))
          for n, name in enumerate(tracks)}


def once(tracks, **kw):
  """Parameters, carry and metrics after one update with the whole batch, or microbatches of it."""
  tx = optax.sgd(1.)
  update = states.update(tracks, POLICY, tx, temperature=.8, **kw)
  state, seen = update(states.create(jax.tree.map(jnp.copy, PARAMS), tx, tracks), B, credits_of(tracks), ROWS, objective.floats(tracks, 0), KEY)
  assert update._cache_size() == 1
  return jax.device_get((state.params, state.carry, seen))


def close(got, want):
  for (path, g), w in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
    np.testing.assert_allclose(g, w, atol=2e-5, rtol=2e-5, err_msg=jax.tree_util.keystr(path))


def same(tracks, **kw):
  got, want = once(tracks, **kw), once(tracks, implementation='reference', **kw)
  assert objective.fusible(tracks)
  close(got, want)
  assert max(np.abs(g - p).max() for g, p in zip(jax.tree.leaves(got[0]), jax.tree.leaves(PARAMS), strict=True)) > 1e-3
  return got


def local():
  """Names of the local losses that ask for no head."""
  names = sorted(p.stem for p in pathlib.Path(folder.__file__).parent.glob('[a-z]*.py'))
  made = {n: config.build('loss', n).call() for n in names}
  return [n for n, loss in made.items() if loss.local and not loss.heads]


@pytest.mark.parametrize('name', local())
def test_every_local_loss(name):
  tracks = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=(dict(name=name, coef=.7),))))
  same(tracks)


def counting(*, scale: float = 1.):
  """A local loss that looks at the whole minibatch first: one number of it, and one a token."""
  def prepare(state, out, batch, adv, key):
    m = batch.tokens.mask
    return state + 1, dict(mean=jnp.sum(jnp.where(m, out.logp, 0.)) / 18, each=jnp.where(m, out.entropy - adv, 0.))
  def term(out, batch, adv, stats):
    return scale * jnp.where(batch.tokens.mask, jnp.square(out.logp - stats['mean']) + out.logp * stats['each'], 0.)
  return Loss(term, prepare, init=lambda: 0, local=True)


def peak(*, by: float = .3):
  """Reads the logits themselves, in a function that closes over its own keyword."""
  def term(out, batch, adv, stats):
    return out.extra['peak'] * adv
  return Loss(term, local=True, extra={'peak': lambda z, i: by * jnp.max(z) - z[i] * jnp.mean(z)})


def nodes(*, scale: float = 1.):
  """Reads a column of steps by each token's step."""
  def term(out, batch, adv, stats):
    return scale * out.logp * batch.nodes.reward['task'][jnp.maximum(batch.tokens.node, 0)]
  return Loss(term, local=True)


MANY = assemble.tracks(dict(
    main=dict(estimator=('grpo',), loss=('ppo_clip', dict(name='kl', coef=.1), dict(name='entropy', coef=.01), dict(name=nodes, coef=.1)),
              average='seq_mean'),
    other=dict(estimator=('grpo',), loss=(dict(name=peak, coef=.2), dict(name=counting, coef=.3)), average='turn_mean', coef=.5)))


@pytest.mark.parametrize('kw', [dict(), dict(microbatch=2), dict(microbatch=4, actions=5)], ids=str)
def test_several_tracks_microbatches_and_statistics(kw):
  """With a look at the whole minibatch and no microbatches the update goes the long way."""
  _, carry, _ = same(MANY, **kw)
  assert carry['other']['loss'][1] == 1


def test_microbatches_change_nothing():
  close(once(MANY, microbatch=2), once(MANY))


def test_a_row_with_too_many_tokens_is_seen():
  """More sampled tokens than `actions` are NaN in the loss, as on the long way."""
  tracks = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=('ppo_clip',))))
  got, want = (once(tracks, actions=2, implementation=name)[2]['loss/main'] for name in ('fused', 'xla'))
  assert np.isnan(got) and np.isnan(want)


def products(tracks, name):
  """How many matrix products the update has."""
  tx = optax.sgd(1.)
  step = states.update(tracks, POLICY, tx, temperature=.8, implementation=name)
  text = step.lower(states.create(PARAMS, tx, tracks), B, credits_of(tracks), ROWS, objective.floats(tracks, 0), KEY).as_text()
  return text.count('dot_general')


def test_which_way_is_gone():
  """Three products instead of four; a loss that is not local goes the long way by itself, and 'fused' refuses it."""
  tracks = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=('ppo_clip',))))
  assert products(tracks, None) == products(tracks, 'fused') == products(tracks, 'xla') - 1
  def sequences():
    return Loss(lambda out, batch, adv, stats: out.logp)
  apart = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=(sequences,))))
  valued = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=('ppo_clip', 'value'))))
  assert products(apart, None) == products(apart, 'xla')
  for tracks in (apart, valued):
    assert not objective.fusible(tracks)
    with pytest.raises(ValueError, match="head='fused' needs losses that are local and read no value head"):
      states.update(tracks, POLICY, optax.sgd(1.), temperature=1., implementation='fused')


def test_on_a_mesh_rows_stay_where_rows_are():
  """The update on four devices is that on one, and no device makes the hidden states of more than its two rows."""
  tracks, tx = assemble.tracks(dict(main=dict(estimator=('grpo',), loss=('ppo_clip',)))), optax.sgd(1.)
  mesh = meshes.create(data=2, fsdp=2)
  params = jax.device_put(jax.tree.map(jnp.copy, PARAMS), meshes.shard_params(PARAMS, (('embedding|head', 'fsdp'),), mesh))
  pad = lambda x: jnp.pad(x, [(0, 2)] + [(0, 0)] * (x.ndim - 1))
  batch = dataclasses.replace(B, tokens=jax.tree.map(pad, B.tokens))
  credits = jax.tree.map(pad, credits_of(tracks))
  step = states.update(tracks, POLICY, tx, temperature=.8, where=states.shardings(params, tx, tracks))
  args = (jax.device_put(batch, meshes.shard_batch(batch, mesh)), jax.device_put(credits, meshes.over_rows(mesh)), ROWS,
          objective.floats(tracks, 0), KEY)
  state = states.create(params, tx, tracks)
  done = step.lower(state, *args).compile()
  state, seen = done(state, *args)
  want, _, saw = once(tracks)
  close(jax.device_get((state.params, seen)), (want, saw))
  width = B.tokens.ids.shape[1]
  rows = {int(n) for n in re.findall(rf'f32\[(\d+),{width},6\]', done.as_text())}
  assert rows == {2}
