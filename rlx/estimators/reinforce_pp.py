"""REINFORCE++: discounted returns token by token, whitened over the batch."""

import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.along import ahead, last_token, whitened
from rlx.types import Array, Batch


def reinforce_pp(batch: Batch, *, channel: str = 'task', gamma: float = 1.0, gaps: str = 'carry', baseline: bool = False,
                 token_reward: str | None = None) -> Array:
  """REINFORCE++ and its baseline variant (arXiv:2501.03262).

    G_t = r_t + gamma G_{t+1},   A = (G - mean) / sqrt(var + 1e-8) over all credited tokens of the batch

  The statistics run over tokens, so long answers weigh more; var has the factor n / (n - 1).

  Args:
    batch: reads `reward[channel]`; it stands on the last trained token of its step.
    channel: reward channel.
    gamma: per trained token.
    gaps: at tokens that are not trained, 'carry' the return on to earlier turns, undiscounted (verl-project), or 'reset'
      it to 0 (volcengine: a later turn's reward then never reaches an earlier turn). The same without gaps.
    baseline: instead of G, R - mean_g R of the episode on each of its tokens (R itself in a group of one), no discount.
    token_reward: a stream of further rewards, token by token (a KL penalty).

  Returns:
    `[R, T]` f32; 0 outside the trained tokens of ended episodes. Where a path branches, what follows a shared step is
    the mean over its next steps (with `baseline`: over its episodes).

  Source: verl-project/verl@1dda039 and volcengine/verl@b178a3cd `core_algos.py`:
  `compute_reinforce_plus_plus_outcome_advantage`, `compute_reinforce_plus_plus_baseline_outcome_advantage`.

  Proof: twin.
  """
  if gaps not in ('carry', 'reset'):
    raise ValueError(f"gaps is 'carry' or 'reset', not {gaps!r}.")
  n, t = batch.nodes, batch.tokens
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  extra = jnp.zeros_like(t.logp) if token_reward is None else jnp.where(t.mask, t.stream[token_reward], 0.)
  if baseline:
    ret = ret + tree.fold_down(masked.node_sum(extra, batch), n.parent)
    g = groups.group_stats(ret, n.group, on)
    score = tree.above(tree.leaf_mean(jnp.where(g.count > 1, ret - g.mean, ret), on, n.parent), t.node, 0.)
  else:
    carry = 1. if gaps == 'carry' else 0.
    r = jnp.where(last_token(batch), tree.above(n.reward[channel], t.node, 0.), 0.) + extra
    score = r + gamma * ahead(r, jnp.where(t.mask, gamma, carry), batch, live, idle=(carry * n.reward[channel], carry))
  return whitened(score, t.mask & tree.above(live, t.node, False))
