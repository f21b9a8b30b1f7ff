"""The tree of steps: `above` and `below` look one step away, the folds go all the way.

The functions take the `parent` column `[N]` and nothing else; they run in log2(depth) rounds (pointer doubling) and do not
depend on the order of steps. `ended`, `judged` and `returns` read the node table.
"""

import chex
import jax
import jax.numpy as jnp

from rlx.types import Array, Nodes


def above(x: Array, parent: Array, root) -> Array:
  """x at the previous step, `root` above a first step.

  Args:
    x: `[N]`.
    parent: index into x, -1 at a first step; of any shape (`[R, T]` for the step of each token).
    root: scalar, or an array of parent's shape (usually the mean of the prompt).

  Returns:
    An array of parent's shape and x's dtype.
  """
  return jnp.where(parent >= 0, x[jnp.maximum(parent, 0)], jnp.asarray(root, x.dtype))


def below(x: Array, parent: Array) -> Array:
  """`[N]` sum of x over the next steps, 0 at the end of a path (times `share`: the mean)."""
  n = x.shape[0]
  return jnp.zeros(n, x.dtype).at[jnp.where(parent >= 0, parent, n)].add(x, mode='drop')


def share(parent: Array, where: Array) -> Array:
  """`[N]` 1 / number of siblings (itself included) in `where`, 0 outside: the mean over next steps is `below(x * share)`.

  First steps have no siblings: their share is 1.
  """
  w = where.astype(jnp.float32)
  return w / jnp.maximum(above(below(w, parent), parent, 1.), 1.)


def _doubling(grow, x, parent, decay):
  """After k rounds y has seen 2**k - 1 steps and c is the product of `decay` over the next 2**k."""
  def body(s):
    y, c, up = s
    return grow(y, c, up), c * above(c, up, 0), above(up, up, -1)
  decay = jnp.broadcast_to(jnp.asarray(decay, x.dtype), x.shape)
  return jax.lax.while_loop(lambda s: jnp.any(s[2] >= 0), body, (x, decay, parent))[0]


@jax.jit
def fold_down(x: Array, parent: Array, decay=1) -> Array:
  """`[N]` y = x + decay * above(y): sums along the path so far. `decay`: scalar or `[N]`."""
  chex.assert_equal_shape((x, parent))
  return _doubling(lambda y, c, up: y + c * above(y, up, 0), x, parent, decay)


@jax.jit
def fold_up(x: Array, parent: Array, decay=1) -> Array:
  """`[N]` y = x + below(decay * y): sums over everything that follows. `decay`: scalar or `[N]`."""
  chex.assert_equal_shape((x, parent))
  return _doubling(lambda y, c, up: y + below(c * y, up), x, parent, decay)


def judged(nodes: Nodes, channel: str) -> Array:
  """`[N]` bool: steps whose reward on `channel` is a verdict."""
  return nodes.valid & nodes.judged.get(channel, True)


def ended(nodes: Nodes) -> Array:
  """`[N]` bool: steps where an episode stands, done or cut off by a limit."""
  return nodes.valid & ((nodes.end == 1) | (nodes.end == 2))


def returns(nodes: Nodes, channel: str) -> tuple[Array, Array]:
  """(ret `[N]` f32, on `[N]` bool): rewards summed along the path, and the ended episodes that were judged at every step.

  Raises:
    KeyError: no such reward channel; the message lists those that exist.
  """
  if channel not in nodes.reward:
    raise KeyError(f"no reward channel '{channel}'; this batch has {sorted(nodes.reward)}")
  ret, on = fold_down(nodes.reward[channel], nodes.parent), ended(nodes)
  if channel in nodes.judged:
    on &= fold_down((~judged(nodes, channel)).astype(jnp.int32), nodes.parent) == 0
  return ret, on


def through(on: Array, parent: Array) -> Array:
  """`[N]` bool: steps with an episode of `on` at or below them, the ones that get credit."""
  return fold_up(on.astype(jnp.int32), parent) > 0


def leaf_mean(x: Array, on: Array, parent: Array) -> Array:
  """`[N]` mean of x over the episodes `on` at or below each step, 0 where there is none."""
  count = fold_up(on.astype(x.dtype), parent)
  return fold_up(jnp.where(on, x, 0), parent) / jnp.maximum(count, 1)
