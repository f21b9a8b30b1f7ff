"""`above`: tokens whose advantage is large enough (the rollout filter of LOOP, apple/ml-loop@6ade7b96 `_filter_rollouts`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, testing, toy
from rlx.learn import objective
from rlx.selectors.above import above


def test_by_hand():
  """|A| >= .25, the bound included, of either sign; no token is added."""
  b = toy.batch([-1, 0], n_tokens=3, n_obs=[0, 1], task=0)
  adv = jnp.asarray([[.25, -.25, .2, 9., -.1, 0., 1.]], jnp.float32)
  assert above(b, b.tokens.mask, adv=adv, least=.25).tolist() == [[True, True, False, False, False, False, True]]
  assert above(b, b.tokens.mask & (b.tokens.node == 0), adv=adv, least=.25).tolist() == [[True, True] + [False] * 5]
  assert not above(b, b.tokens.mask, adv=adv, least=10.).any()


def test_default_is_the_release_s():
  b = toy.batch([-1], n_tokens=4, task=0)
  adv = jnp.asarray([[.0101, -.0101, .0099, -.0099]], jnp.float32)
  assert above(b, b.tokens.mask, adv=adv).tolist() == [[True, True, False, False]]


def test_random_batch():
  b = testing.batch()
  rng = np.random.default_rng(0)
  adv, keep = rng.normal(size=b.tokens.mask.shape).astype(np.float32), b.tokens.mask & (rng.random(b.tokens.mask.shape) < .7)
  got = jax.jit(lambda b, keep, adv, least: above(b, keep, adv=adv, least=least))(b, keep, jnp.asarray(adv), jnp.float32(.5))
  assert got.dtype == bool and got.any() and (keep & ~got).any()
  np.testing.assert_array_equal(got, np.asarray(keep) & (abs(adv) >= .5))


@pytest.mark.parametrize('least, kept', [(.3, [0, 1, 2, 4]), (.6, [4])])
def test_the_loop_hands_it_the_advantages(least, kept):
  """Through a track, `least` traced: what goes leaves the loss and its denominator."""
  b = toy.batch([-1] * 5, group=[0, 0, 1, 1, 1], task=[1, 0, 0, .25, 1.25], n_tokens=2)  # A = .5 -.5 -.5 -.25 .75
  tracks = assemble.tracks(dict(main=dict(estimator=(dict(name='grpo', std=False),), selector=(dict(name='above', least=least),),
                                          loss=('ppo_clip',))))
  _, credits, _ = objective.credit(tracks, objective.floats(tracks, 0), objective.init(tracks), b, step=jnp.int32(0),
                                   key=jax.random.key(0))
  assert sorted(set(np.asarray(b.tokens.node)[np.asarray(credits['main'].keep)].tolist())) == kept
