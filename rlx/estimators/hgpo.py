"""HGPO: a step against the steps that share its state and its last states, groups nested by length of history."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.estimators.gigpo import step_returns
from rlx.types import Array, Batch


def hgpo(batch: Batch, *, channel: str = 'task', gamma: float = 0.95, history: int = 2, alpha: float = 1.0,
         first: int = 2, std: bool = False, base: bool = False, eps: float = 1e-6) -> Array:
  """Hierarchy-of-groups advantages (ICLR 2026).

    A = sum_k w_k A_k / (sum_k w_k + eps),   w_k = (k + first)^alpha,   k = 0 ... history
    A_k = (G - mean_k G) / F_k over the steps of the prompt with equal last k + 1 states,   G = r + gamma G'

  F is 1, or the population deviation (ddof 0) + eps with `std`. A level counts where its group has two members or more;
  a step with fewer than k predecessors has no level k.

  Args:
    batch: reads `reward[channel]` and `label['state']`.
    channel: reward channel.
    gamma: discount per step.
    history: K, the longest history; the prompt's memory length in the released scripts (2 or 4).
    alpha: exponent of the weights.
    first: 2 as released (weights 2, 3, 4 ...), 1 as in the paper (1, 2, 3 ...).
    std: divide by the deviations (ALFWorld script; WebShop does not).
    base: one more item of weight 1 (released `base_group`): the return of the episode against all steps of the prompt,
      with the sample deviation, raw where the prompt has a single step.
    eps: added to deviations and to the sum of weights.

  Returns:
    `[N]` f32; 0 where no level counts and where no ended episode runs through.

  Source: gitrxh/ADRS-arxiv@c4277ace `recipe/hgpo/core_hgpo.py`.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  has = live = tree.through(on, n.parent)
  num, den, key = jnp.zeros_like(ret), jnp.zeros_like(ret), n.group
  if base:
    score = tree.leaf_mean(ret, on, n.parent)
    alone = groups.group_stats(score, n.group, live).count == 1
    num += jnp.where(alone, score, groups.group_norm(score, n.group, live, std=std, ddof=1, eps=eps))
    den += 1.
  ret = step_returns(batch, live, channel=channel, gamma=gamma)
  for k in range(history + 1):
    if k > 0:
      key, has = tree.above(key, n.parent, -1), has & tree.above(has, n.parent, False)
    key = groups.dense_ids(n.label['state'], key)
    counts = has & (groups.group_stats(ret, key, has).count > 1)
    w = jnp.where(counts, float(k + first) ** alpha, 0.)
    num, den = num + w * groups.group_norm(ret, key, has, std=std, ddof=0, eps=eps), den + w
  return jnp.where(live, num / (den + eps), 0.)
