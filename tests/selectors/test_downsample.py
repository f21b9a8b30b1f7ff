"""`downsample` (arXiv:2511.07327): as many steps as divide evenly, the others dropped at random."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import testing, toy
from rlx.selectors.downsample import downsample

RUN = jax.jit(downsample, static_argnames='multiple')


def steps(b, keep):
  return sorted(set(np.asarray(b.tokens.node)[np.asarray(keep)].tolist()))


def test_the_paper_s_numbers():
  """37 steps and 8: 32 are left."""
  b = toy.batch([-1] * 37, task=0, n_tokens=2)
  got = RUN(b, b.tokens.mask, key=jax.random.key(0), multiple=8)
  assert len(steps(b, got)) == 32 and int(got.sum()) == 64 and got.dtype == bool


@pytest.mark.parametrize('count, multiple, left', [(8, 8, 8), (7, 8, 0), (9, 1, 9), (11, 5, 10)])
def test_counts(count, multiple, left):
  b = toy.batch([-1] * count, task=0, n_obs=1)
  assert len(steps(b, downsample(b, b.tokens.mask, key=jax.random.key(3), multiple=multiple))) == left


def test_only_kept_steps_are_counted_and_stay_whole():
  """Another selector left 6 steps, of one of them a single token; 4 are left, with the tokens that they had."""
  b = testing.batch()
  node, mask = np.asarray(b.tokens.node), np.asarray(b.tokens.mask)
  keep = mask & np.isin(node, steps(b, mask)[:6])
  r, t = np.argwhere(keep & (node == 2))[0]
  keep &= (node != 2) | ((np.arange(keep.shape[0])[:, None] == r) & (np.arange(keep.shape[1]) == t))
  drawn = set()
  for seed in range(12):
    got = np.asarray(RUN(b, jnp.asarray(keep), key=jax.random.key(seed), multiple=4))
    left = steps(b, got)
    assert len(left) == 4
    np.testing.assert_array_equal(got, keep & np.isin(node, left))
    drawn.add(tuple(left))
  assert len(drawn) > 4 and set(sum(drawn, ())) == set(steps(b, keep))      # every step is sometimes among them


def test_a_multiple_below_one():
  b = toy.batch([-1], task=0)
  with pytest.raises(ValueError, match='at least 1'):
    downsample(b, b.tokens.mask, key=jax.random.key(0), multiple=0)
