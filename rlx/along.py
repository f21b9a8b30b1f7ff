"""Along the tokens of a path, through observations, rows and branches: what token-level estimators stand on."""

import jax
import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch


def ahead(x: Array, decay: Array, batch: Batch, live: Array, *, idle: tuple = (0., 1.)) -> Array:
  """What stands ahead of each token of a path: h = x' + decay' h', primes meaning the next token, and 0 at its end.

  A path runs from step to step as the tree says, whatever row the next step is trained in; there h is the mean over next
  steps. A step's tokens are those of the row that trains it, the observation before it included.

  Args:
    x: `[R, T]` f32.
    decay: `[R, T]` f32.
    batch: the tables.
    live: `[N]` bool, the steps that count.
    idle: x and decay, scalar or `[N]`, of a whole step that has no trained token.

  Returns:
    `[R, T]` f32, 0 on tokens of no step and on shared prefixes that another row trains.
  """
  n, t = batch.nodes, batch.tokens
  size, (rows, width) = n.parent.shape[0], t.node.shape
  place = jnp.arange(rows, dtype=jnp.int32)[:, None] * width + t.segment       # the sequence of each token
  home = jax.ops.segment_max(jnp.where(t.mask, place, -1).ravel(), jnp.where(t.mask, t.node, size).ravel(), size)
  step = jnp.where(tree.above(home, t.node, -1) == place, t.node, -1)
  edge = jnp.full((rows, 1), -1, step.dtype)
  first = (step >= 0) & (step != jnp.concatenate([edge, step[:, :-1]], 1))
  last = (step >= 0) & (step != jnp.concatenate([step[:, 1:], edge], 1))

  after = jnp.arange(1, rows * width + 1, dtype=jnp.int32)
  after = jnp.where((step >= 0) & ~last, after.reshape(step.shape), -1).ravel()      # the next token of the same step
  a = tree.fold_down(x.ravel(), after, decay.ravel())         # over the rest of its step: h -> a + c h
  c = tree.fold_down(jnp.where(last, decay, 0.).ravel(), after, jnp.where(last, 0., decay).ravel())
  of_step = lambda y: jax.ops.segment_sum(y, jnp.where(first, step, size).ravel(), size)
  total, through = (jnp.where(home >= 0, of_step(y), other) for y, other in ((a, idle[0]), (c, idle[1])))
  share = tree.share(n.parent, live)
  total = tree.fold_up(total, n.parent, tree.above(through, n.parent, 0.) * share)
  rest = tree.above(tree.below(total * share, n.parent), step, 0.)
  h = tree.above(a, after, 0.).reshape(step.shape) + tree.above(c, after, 1.).reshape(step.shape) * rest
  return jnp.where(step >= 0, h, 0.)


def last_token(batch: Batch) -> Array:
  """`[R, T]` bool: the last trained token of each step."""
  t, size = batch.tokens, batch.nodes.parent.shape[0]
  at = jnp.broadcast_to(jnp.arange(t.node.shape[1], dtype=jnp.int32), t.node.shape)
  end = jax.ops.segment_max(jnp.where(t.mask, at, -1).ravel(), jnp.where(t.mask, t.node, size).ravel(), size)
  return t.mask & (at == tree.above(end, t.node, -1))


def whitened(x: Array, where: Array, *, eps: float = 1e-8) -> Array:
  """(x - mean) / sqrt(var + eps) over `where`, var with the factor n / (n - 1); 0 outside, and where all are equal.

  Args:
    x: `[R, T]` f32.
    where: `[R, T]` bool.
  """
  count = jnp.sum(where, dtype=jnp.float32)
  least = jnp.min(x, where=where, initial=jnp.inf)
  x = jnp.where(where, x - jnp.where(count > 0, least, 0.), 0.)
  x = jnp.where(where, x - jnp.sum(x) / jnp.maximum(count, 1), 0.)
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x)) / jnp.maximum(count - 1, 1) + eps)
