"""The recursion along tokens that `gae` and `reinforce_pp` share, against a walk from token to token."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import testing, toy, tree
from rlx.along import ahead, last_token, whitened
from rlx.estimators.gae import gae


def walk(x, decay, b, live, idle):
  """h of each token by following the tree: within a step to the right, then the mean over next live steps."""
  parent, live = np.asarray(b.nodes.parent), np.asarray(live)
  node, mask, segment = (np.asarray(getattr(b.tokens, k)) for k in ('node', 'mask', 'segment'))
  places = {}                                   # step -> its tokens, in the row that trains it
  for r, c in zip(*np.nonzero(mask), strict=True):
    row = np.flatnonzero((node[r] == node[r, c]) & (segment[r] == segment[r, c]))
    places[node[r, c]] = [(r, k) for k in row]

  def step(i):                                  # what stands before the first token of step i
    if i not in places:
      return idle[0][i] + idle[1] * after(i)
    r, c = places[i][0]
    return x[r, c] + decay[r, c] * token(i, 0)

  def after(i):
    children = [j for j in np.flatnonzero(parent == i) if live[j]]
    return float(np.mean([step(j) for j in children])) if children else 0.

  def token(i, k):
    if k + 1 == len(places[i]):
      return after(i)
    r, c = places[i][k + 1]
    return x[r, c] + decay[r, c] * token(i, k + 1)

  out = np.zeros(node.shape)
  for i, tokens in places.items():
    for k, (r, c) in enumerate(tokens):
      out[r, c] = token(i, k)
  return out


@pytest.mark.parametrize('pack', [1, 3])
def test_against_a_walk(pack):
  """Random trees with observations, steps without trained tokens, dead branches, and packed rows."""
  run = jax.jit(lambda x, decay, b, live, idle: ahead(x, decay, b, live, idle=(idle, .7)))
  for seed in range(2):
    rng = np.random.default_rng(seed)
    parent = [-1] + [int(rng.integers(-1, i)) for i in range(1, 24)]
    b = toy.batch(parent=parent, task=0, n_tokens=rng.integers(0, 4, 24), n_obs=rng.integers(0, 3, 24), pack=pack)
    b = testing.pad(b, 24, 24, 80)
    live = tree.through(tree.ended(b.nodes) & jnp.asarray(rng.uniform(size=24) < .8), b.nodes.parent)
    x, decay, idle = rng.normal(size=(24, 80)), rng.uniform(size=(24, 80)), rng.normal(size=24)
    got = run(jnp.asarray(x, jnp.float32), jnp.asarray(decay, jnp.float32), b, live, jnp.asarray(idle, jnp.float32))
    np.testing.assert_allclose(got, walk(x, decay, b, live, (idle, .7)), atol=1e-5, rtol=0)


def test_last_token():
  b = toy.batch(parent=[-1, 0, 0, -1], task=0, n_tokens=[2, 1, 0, 3], n_obs=[0, 1, 1, 0])
  assert last_token(b).tolist() == [[False, True, False, True], [False] * 4, [False, False, True, False]]


def test_whitened():
  x = jnp.asarray([[1., 2, 3], [4, 99, 99]])
  where = jnp.asarray([[True, True, True], [True, False, False]])
  want = (np.arange(1, 5) - 2.5) / np.std(np.arange(1, 5), ddof=1)
  np.testing.assert_allclose(whitened(x, where), [want[:3], [want[3], 0, 0]], atol=1e-6)
  assert not whitened(jnp.full((1, 7), .1), jnp.ones((1, 7), bool)).any()         # equal: exactly 0
  assert not whitened(x, jnp.zeros((2, 3), bool)).any()                           # nothing there


def test_an_episode_in_several_rows():
  """A context that is rewritten starts a new row: the reward of the second reaches the first."""
  one = toy.batch(parent=[-1, 0], task=[0, 1], n_tokens=2, stream={'value/value': [[.1, .2, .3, .4]]})
  t = one.tokens
  fold = lambda x: x.reshape(2, 2)
  two = dataclasses.replace(one, tokens=dataclasses.replace(jax.tree.map(fold, t), segment=jnp.zeros((2, 2), jnp.int32)))
  want = gae(one, gamma=.9, lam=.8, whiten=False)
  got = gae(two, gamma=.9, lam=.8, whiten=False)
  np.testing.assert_allclose(got.adv, fold(want.adv), atol=1e-6)
  np.testing.assert_allclose(got.target['value'], fold(want.target['value']), atol=1e-6)
  assert float(want.adv[0, 0]) > 0


def test_gae_where_a_path_branches():
  """V = 0, lam = 1: the target of a shared step is the mean return of its branches, weighted by branching."""
  b = toy.batch(parent=[-1, 0, 0, 2, 2], task=[0, 1, 0, 3, 5], stream={'value/value': 0})
  got = gae(b, whiten=False).target['value']
  np.testing.assert_allclose(got, [[(1 + 4) / 2, 1, 0], [0, 4, 3], [0, 0, 5]], atol=1e-6)
