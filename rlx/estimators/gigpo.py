"""GiGPO: an episode against its prompt, plus a step against the steps taken in the same state."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def step_returns(batch: Batch, live: Array, *, channel: str, gamma: float) -> Array:
  """`[N]` discounted return of each step, G = r + gamma * mean over next steps in `live` of G."""
  n = batch.nodes
  return tree.fold_up(n.reward[channel], n.parent, gamma * tree.share(n.parent, live))


def gigpo(batch: Batch, *, channel: str = 'task', gamma: float = 0.95, weight: float = 1.0, std: bool = False,
          population: str = 'steps', penalty: str | None = None, singleton: str = 'zero', eps: float = 1e-6) -> Array:
  """Group-in-group advantages (arXiv:2505.10978, eq. 3 to 8).

    A = A^E + weight A^S
    A^E = (R - mean_g R) / F_g        R: return of the episode, g: its prompt
    A^S = (G - mean_s G) / F_s        G = r + gamma G': return of the step, s: steps of the prompt in the same state

  F is 1, or the sample deviation + eps with `std` (ALFWorld and search scripts use it, WebShop does not).

  Args:
    batch: reads `reward[channel]` and `label['state']`.
    channel: reward channel.
    gamma: discount per step.
    weight: of A^S.
    std: divide by the deviations.
    population: what the statistics of A^E count: 'steps' (released: an episode counts once for each of its steps) or
      'episodes' (paper). The release then takes the score of an episode from its first step, penalty included; here the
      pool of episodes is free of penalties.
    penalty: a channel (0 or negative for a penalty, positive for a bonus) added to R and to G of its own step after G was formed: invalid actions.
    singleton: A^E in a pool of one: 'zero', or 'raw' its score (released). A state seen once always has A^S = 0.
    eps: added to the deviations.

  Returns:
    `[N]` f32; 0 where no ended episode runs through; R of a shared step is the mean over its episodes.

  Source: vanzll/verl-agent@d0b97244 `gigpo/core_gigpo.py`.

  Proof: twin.
  """
  if population not in ('steps', 'episodes'):
    raise ValueError(f"population is 'steps' or 'episodes', not {population!r}.")
  if singleton not in ('zero', 'raw'):
    raise ValueError(f"singleton is 'zero' or 'raw', not {singleton!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  extra = n.reward[penalty] if penalty else jnp.zeros_like(ret)
  score = tree.leaf_mean(ret, on, n.parent) + extra
  pool = groups.group_stats(score, n.group, live) if population == 'steps' else groups.group_stats(ret, n.group, on)
  episode = (score - pool.mean) / (pool.std(1) + eps if std else 1.)
  alone = score if singleton == 'raw' else jnp.zeros_like(score)
  episode = jnp.where(pool.count == 1, alone, episode)
  ret = step_returns(batch, live, channel=channel, gamma=gamma) + extra
  same = groups.dense_ids(n.group, n.label['state'])
  step = groups.group_norm(ret, same, live, std=std, ddof=1, eps=eps)
  return jnp.where(live, episode + weight * step, 0.)
