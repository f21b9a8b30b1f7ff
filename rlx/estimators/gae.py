"""GAE token by token, through observations, rows and branches."""

import jax.numpy as jnp

from rlx import along, masked, tree
from rlx.types import Advantages, Batch


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
    adv `[R, T]`; target {head: R `[R, T]`}. Both 0 outside the trained tokens of ended episodes; where an episode has no verdict, the
    target is the prediction.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_gae_advantage_return` (without branches and bootstrap).

  Proof: twin.
  """
  n, t = batch.nodes, batch.tokens
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  keep = t.mask & tree.above(live, t.node, False)
  v = jnp.where(t.mask, t.stream[f'value/{head}'], 0.)
  last = along.last_token(batch)
  r_step = n.reward[channel]
  if bootstrap:
    trained = masked.node_sum(jnp.ones_like(v), batch) > 0
    v_last = tree.fold_down(masked.node_sum(jnp.where(last, v, 0.), batch), n.parent, jnp.where(trained, 0., 1.))
    r_step = r_step + jnp.where(n.end == 2, gamma * v_last, 0.)
  r = jnp.where(last, tree.above(r_step, t.node, 0.), 0.)
  if token_reward is not None:
    r = r + jnp.where(t.mask, t.stream[token_reward], 0.)
  follow = along.ahead((1 - lam) * v + lam * r, jnp.where(t.mask, gamma * lam, 1.), batch, live, idle=(r_step, 1.))
  ret = jnp.where(keep, r + gamma * follow, 0.)
  adv = ret - jnp.where(keep, v, 0.)
  unjudged = t.mask & ~keep & tree.above(tree.through(tree.ended(n), n.parent), t.node, False)
  return Advantages(adv=along.whitened(adv, keep) if whiten else adv, target={head: jnp.where(unjudged, v, ret)})
