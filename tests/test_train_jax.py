"""A whole run inside jit: it learns, it repeats itself, and one program serves all tasks and numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, train_jax
from rlx.envs.probe_tasks import device
from rlx.learn import objective


def made(*estimator, **kw):
  tracks = assemble.tracks(dict(main=dict(estimator=estimator, loss=('ppo_clip',))))
  return train_jax.Recipe(tracks, **kw), objective.floats(tracks, 0)


@functools.cache
def program(*estimator, **kw):
  recipe, hypers = made(*estimator, **kw)
  traced = []
  @jax.jit
  @functools.partial(jax.vmap, in_axes=(None, 0, None))
  def run(task, key, hypers):
    traced.append(1)
    return train_jax.train(device(task), recipe, key, hypers=hypers, updates=30, groups=4, width=8, learning_rate=.1)
  return run, hypers, traced


KEYS = jax.random.split(jax.random.key(0), 3)


def test_it_learns_and_repeats_itself():
  run, hypers, traced = program('grpo')
  curve = np.asarray(run(jnp.int32(0), KEYS, hypers))
  assert curve.shape == (3, 30) and abs(curve[:, 0].mean() - .25) < .15 and curve[:, -3:].mean() > .7
  np.testing.assert_array_equal(curve, run(jnp.int32(0), KEYS, hypers))
  assert np.asarray(run(jnp.int32(3), KEYS, hypers))[:, -3:].mean() > .6 and len(traced) == 1, 'one program for all tasks'


def test_a_wrong_sign_unlearns():
  """The curve follows the credit: rewards turned round drive success to nothing."""
  recipe, hypers = made('grpo')
  hypers = jax.tree.map(lambda x: x, hypers)
  hypers['main']['coef'] = np.float32(-1)
  curve = jax.jit(lambda k: train_jax.train(device(jnp.int32(0)), recipe, k, hypers=hypers, updates=20, groups=4, learning_rate=.1))(KEYS[0])
  assert np.asarray(curve)[-3:].mean() < .1


def test_critics_are_trained():
  """GAE needs a value: with one that learns, success rises as well; the forest may fork."""
  recipe, hypers = made('gae', fork=3)
  curve = jax.jit(lambda k: train_jax.train(device(jnp.int32(3)), recipe, k, hypers=hypers, updates=30, groups=4, learning_rate=.1))(KEYS[0])
  assert np.asarray(curve)[-3:].mean() > .6


def test_greedy_paths_are_not_counted():
  recipe, hypers = made('grpo', greedy=True)
  curve = jax.jit(lambda k: train_jax.train(device(jnp.int32(0)), recipe, k, hypers=hypers, updates=2, groups=8, learning_rate=.1))(KEYS[1])
  assert float(curve[0]) * 56 == pytest.approx(round(float(curve[0]) * 56), abs=1e-3), 'seven of eight paths'
