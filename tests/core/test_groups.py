"""Group statistics and integer labels against plain loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import groups

F32, I32 = (lambda x: jnp.asarray(x, jnp.float32)), (lambda x: jnp.asarray(x, jnp.int32))


def close(got, want, tol=1e-5):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def test_dense_ids_name_the_first_equal_row():
  rng = np.random.default_rng(0)
  a, b = rng.integers(-1, 9, 300), rng.integers(0, 2**31, 7)[rng.integers(0, 7, 300)]
  first = {}
  want = [first.setdefault((x, y), i) for i, (x, y) in enumerate(zip(a, b, strict=True))]
  assert groups.dense_ids(I32(a), I32(b)).tolist() == want


@pytest.mark.parametrize('column', [np.zeros(64), np.arange(64), np.arange(64) << 20, [5]],
                         ids=['one', 'all', 'high bits', 'single'])
def test_dense_ids_extremes(column):
  column = np.asarray(column, np.int64)
  want = [list(column).index(x) for x in column]
  assert groups.dense_ids(I32(column)).tolist() == want


def test_dense_ids_tell_columns_apart():
  """(0, 1) and (1, 0) are two groups."""
  assert groups.dense_ids(I32([0, 1, 0]), I32([1, 0, 1])).tolist() == [0, 1, 0]


def test_stats_against_numpy():
  rng = np.random.default_rng(1)
  x, ids, where = rng.normal(3., 1., 50), rng.integers(0, 6, 50), rng.uniform(size=50) < .7
  s = groups.group_stats(F32(x), I32(ids), jnp.asarray(where))
  for i in range(50):
    member = x[(ids == ids[i]) & where]
    close(s.count[i], len(member))
    if len(member):
      close(s.mean[i], member.mean())
      close(s.std(0)[i], member.std())
    if len(member) > 1:
      close(s.std(1)[i], member.std(ddof=1))


def test_equal_values_deviate_by_exactly_nothing():
  """.1 and .7 are not representable: a plain float32 mean of 11 of them is off, and would be divided by eps."""
  x = F32([.1] * 11 + [.7] * 13)
  ids = I32([0] * 11 + [11] * 13)
  for std in (True, False):
    assert not groups.group_norm(x, ids, jnp.ones(24, bool), std=std, ddof=1).any()


def test_norm_of_the_sheet():
  """R = [1, 0, 0, 1, .5]: [1, -1, -1, 1, 0] by the sample deviation, 1.118 by the population's."""
  x, ids, all_ = F32([1, 0, 0, 1, .5]), jnp.zeros(5, jnp.int32), jnp.ones(5, bool)
  close(groups.group_norm(x, ids, all_, std=True, ddof=1), [1, -1, -1, 1, 0])
  close(groups.group_norm(x, ids, all_, std=True, ddof=0), [1.118, -1.118, -1.118, 1.118, 0], 1e-3)
  close(groups.group_norm(x, ids, all_, std=False, ddof=0), [.5, -.5, -.5, .5, 0])


def test_what_is_not_counted_gets_nothing():
  x = F32([1, 2, 1e9, 3])
  where = jnp.asarray([True, True, False, False])
  close(groups.group_norm(x, I32([0, 0, 0, 3]), where, std=False, ddof=1), [-.5, .5, 0, 0])
  s = groups.group_stats(x, I32([0, 0, 0, 3]), where)
  assert s.count.tolist() == [2, 2, 2, 0] and float(s.mean[3]) == 0 and np.isfinite(s.std(1)).all()
