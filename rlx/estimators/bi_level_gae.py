"""GAE on two levels: turn by turn, then token by token inside each turn."""

import jax.numpy as jnp

from rlx import along, masked, tree
from rlx.types import Advantages, Batch


def bi_level_gae(batch: Batch, *, channel: str = 'task', head: str = 'value', gamma: float = 1.0, lam: float = 1.0,
                 gamma_turn: float = 1.0, lam_turn: float | None = None, ends: str = 'turns', whiten: bool = True) -> Advantages:
  """Bi-level generalised advantage estimation (VAGEN, arXiv:2510.16907).

    at the last token k of a turn:   R_k = r_k + gamma_turn ((1 - lam_turn) V_k' + lam_turn R_k')   k': last token of the next turn
    at the other tokens of a turn:   R_t = gamma ((1 - lam) V_{t+1} + lam R_{t+1})                  A_t = R_t - V_t

  which is GAE over turns whose A + V is then the reward of a GAE inside each turn. Where a path branches, what follows a turn is
  the mean over next steps. Nothing is bootstrapped where an episode was cut off.

  Args:
    batch: reads `reward[channel]`, which stands on the last trained token of its step (that of a step without one on the step
      before it), and `stream['value/<head>']` `[R, T]`, V before each token.
    channel: reward channel.
    head: name of the value head or of the critic's.
    gamma, lam: per token.
    gamma_turn, lam_turn: per turn; lam_turn None: `lam`, as released.
    ends: where a turn ends: 'turns': with each step; 'rewards' (released): with each step whose reward is not 0, so that a
      reward of 0 merges two turns. There the release needs a reward at the end of each episode; without one the last turn here
      just has none.
    whiten: advantages to mean 0 and deviation 1 over all credited tokens.

  Returns:
    adv `[R, T]`; target {head: R `[R, T]`}, made before whitening. Both 0 outside the trained tokens of ended episodes; where an
    episode has no verdict, the target is the prediction.

  Raises:
    ValueError: no such ends.

  Source: WillDreamer/ARLArena@dc1da9f7 `recipe/ragen/trainer/core_algos.py::compute_bi_level_gae_advantage_return`.

  Proof: twin.
  """
  if ends not in ('turns', 'rewards'):
    raise ValueError(f"ends is 'turns' or 'rewards', not {ends!r}.")
  lam_turn = lam if lam_turn is None else lam_turn
  n, t = batch.nodes, batch.tokens
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  keep = t.mask & tree.above(live, t.node, False)
  v = jnp.where(t.mask, t.stream[f'value/{head}'], 0.)
  last = along.last_token(batch)
  trained = masked.node_sum(jnp.ones_like(v), batch) > 0
  share = tree.share(n.parent, live)

  r = tree.fold_up(n.reward[channel], n.parent, jnp.where(trained, 0., share))
  stop = trained if ends == 'turns' else trained & (r != 0)
  v_last = masked.node_sum(jnp.where(last, v, 0.), batch)
  x = jnp.where(stop, gamma_turn * ((1 - lam_turn) * v_last + lam_turn * r), 0.)
  decay = jnp.where(stop, gamma_turn * lam_turn, 1.)
  follow = tree.fold_up(x, n.parent, tree.above(decay, n.parent, 0.) * share)
  ret_turn = tree.above(r + tree.below(follow * share, n.parent), t.node, 0.)

  stop = last & tree.above(stop, t.node, False)
  follow = along.ahead((1 - lam) * v + jnp.where(stop, lam * ret_turn, 0.),
                       jnp.where(stop, 0., jnp.where(t.mask, gamma * lam, 1.)), batch, live)
  ret = jnp.where(keep, jnp.where(stop, ret_turn, gamma * follow), 0.)
  adv = ret - jnp.where(keep, v, 0.)
  unjudged = t.mask & ~keep & tree.above(tree.through(tree.ended(n), n.parent), t.node, False)
  return Advantages(adv=along.whitened(adv, keep) if whiten else adv, target={head: jnp.where(unjudged, v, ret)})
