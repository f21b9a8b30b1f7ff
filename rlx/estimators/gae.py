"""GAE token by token, through observations, rows and branches; and the two pieces token-level estimators stand on."""

import jax
import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Advantages, Array, Batch


def gae(batch: Batch, *, channel: str = 'task', head: str = 'value', gamma: float = 1.0, lam: float = 1.0,
        whiten: bool = True, bootstrap: bool = True, token_reward: str | None = None) -> Advantages:
  """Generalised advantage estimation (arXiv:1506.02438) over the trained tokens of each path.

    R_t = r_t + gamma ((1 - lam) V_{t+1} + lam R_{t+1}),   A_t = R_t - V_t,   whitened over the tokens of the batch

  which is A_t = delta_t + gamma lam A_{t+1}. t + 1 is the next trained token: observations cost no discount and leave
  no trace, a step of another speaker only passes its reward on. Where a path branches, what follows is the mean over
  next steps.

  Args:
    batch: reads `reward[channel]`, which stands on the last trained token of its step, and `stream['value/<head>']`
      `[R, T]`, V before each token.
    channel: reward channel.
    head: name of the value head or of the critic's.
    gamma, lam: per token.
    whiten: advantages to mean 0 and deviation 1 over all credited tokens.
    bootstrap: an episode that was cut off (end 2) goes on with V of its last token, as in T-PPO (arXiv:2506.15050).
    token_reward: a stream of further rewards, token by token.

  Returns:
    adv `[R, T]`; target {head: R `[R, T]`}. Both 0 outside the trained tokens of ended episodes.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_gae_advantage_return` (without branches and bootstrap).

  Proof: twin.
  """
  n, t = batch.nodes, batch.tokens
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  keep = t.mask & tree.above(live, t.node, False)
  v = jnp.where(t.mask, t.stream[f'value/{head}'], 0.)
  last = last_token(batch)
  r_step = n.reward[channel]
  if bootstrap:
    trained = masked.node_sum(jnp.ones_like(v), batch) > 0
    v_last = tree.fold_down(masked.node_sum(jnp.where(last, v, 0.), batch), n.parent, jnp.where(trained, 0., 1.))
    r_step = r_step + jnp.where(n.end == 2, gamma * v_last, 0.)
  r = jnp.where(last, tree.above(r_step, t.node, 0.), 0.)
  if token_reward is not None:
    r = r + jnp.where(t.mask, t.stream[token_reward], 0.)
  follow = ahead((1 - lam) * v + lam * r, jnp.where(t.mask, gamma * lam, 1.), batch, live, idle=(r_step, 1.))
  ret = jnp.where(keep, r + gamma * follow, 0.)
  adv = ret - jnp.where(keep, v, 0.)
  return Advantages(adv=whitened(adv, keep) if whiten else adv, target={head: ret})


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
