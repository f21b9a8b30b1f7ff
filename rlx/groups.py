"""Groups of steps: equal columns to equal integers, and statistics over equal integers."""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlx.types import Array


@jax.jit
def dense_ids(*columns: Array) -> Array:
  """Equal rows of the columns get equal ids: the index of the first such row (an exact hash join, no sort).

  Args:
    *columns: integer columns, `[N]` each.

  Returns:
    `[N]` i32; ids are indices of representatives, so they serve as segment ids with `num_segments=N`.
  """
  chex.assert_rank(columns, 1)
  chex.assert_equal_shape(columns)
  n = columns[0].shape[0]
  size = 1 << (4 * n).bit_length()
  rows = jnp.arange(n, dtype=jnp.int32)

  def slot(salt):
    h = jnp.full(n, salt, jnp.uint32)
    for c in columns:
      h = (h ^ c.astype(jnp.uint32)) * jnp.uint32(0x9E3779B1)
      h = h ^ (h >> 15)
    return (h & jnp.uint32(size - 1)).astype(jnp.int32)

  def attempt(s):   # the lowest open row takes the slot, with all rows equal to it; the rest try another hash
    ids, salt = s
    at = slot(salt)
    first = jnp.full(size, n, jnp.int32).at[jnp.where(ids < 0, at, size)].min(rows, mode='drop')[at]
    first = jnp.minimum(first, n - 1)
    same = functools.reduce(jnp.logical_and, (c[first] == c for c in columns), ids < 0)
    return jnp.where(same, first, ids), salt + jnp.uint32(1)

  start = jnp.full(n, -1, jnp.int32), jnp.uint32(1)
  return jax.lax.while_loop(lambda s: jnp.any(s[0] < 0), attempt, start)[0]


class Stats(NamedTuple):
  """Statistics of a group, standing on each of its members: `[N]` f32 each."""
  mean: Array
  square: Array   # sum of squared deviations
  count: Array

  def std(self, ddof: int) -> Array:
    """`[N]` sqrt(square / (count - ddof)); 0 where count <= ddof. ddof=1 is torch's default, 0 numpy's."""
    return jnp.sqrt(self.square / jnp.maximum(self.count - ddof, 1))


def group_stats(x: Array, ids: Array, where: Array) -> Stats:
  """Mean, squared deviations and count of x over the members of each group that are in `where`.

  Two passes, the group's minimum subtracted first: equal values deviate by exactly 0.

  Args:
    x: `[N]` f32.
    ids: `[N]` i32 in [0, N), equal = same group.
    where: `[N]` bool.
  """
  chex.assert_equal_shape((x, ids, where))
  n = x.shape[0]
  total = lambda v: jax.ops.segment_sum(jnp.where(where, v, 0), ids, n)[ids]
  count = total(jnp.ones_like(x))
  least = jax.ops.segment_min(jnp.where(where, x, jnp.inf), ids, n)[ids]
  least = jnp.where(count > 0, least, 0)
  mean = least + total(x - least) / jnp.maximum(count, 1)
  return Stats(mean, total(jnp.square(x - mean)), count)


def group_norm(x: Array, ids: Array, where: Array, *, std: bool, ddof: int, eps: float = 1e-6) -> Array:
  """`[N]` (x - group mean) / (group std + eps), 0 outside `where`; without `std` only centred. A group of one gives 0."""
  s = group_stats(x, ids, where)
  return jnp.where(where, (x - s.mean) / (s.std(ddof) + eps if std else 1.), 0.)
