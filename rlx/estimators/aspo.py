"""ASPO: of the right answers that ran code, those that did so earlier get more."""

import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch


def aspo(batch: Batch, adv: Array, *, code: str = 'tool', channel: str = 'task', delta: float = -2.0, bound: float = 0.7) -> Array:
  """A bias towards early tool calls on the advantage, not on the reward (arXiv:2508.19201, equation 2; modulator).

    A'_i = A_i + clip(delta (p_i - mean p) / mean L, -bound |A_i|, bound |A_i|)   for episodes i that are right and hold code

  p: tokens before the first step with code, L: tokens of the episode, both counted over sampled tokens; the means run over such
  episodes of the prompt. A bound below 1 keeps the sign of A, and where A is 0 nothing is added. |A| is a third party's code's; the
  paper writes A, which is not negative for a right answer.

  Args:
    batch: reads `reward[channel]` (an episode is right if its return is above 0) and `label[code]`.
    adv: `[N]`; A_i stands at the last step of its episode.
    code: label above 0 on steps that call code.
    channel: reward channel.
    delta: -2 with bound 0.7 (conservative), -2.5 with 0.9 (aggressive).
    bound: of the bias, as a share of |A|.

  Returns:
    `[N]` f32: adv plus the mean of the bias over the episodes through a step.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  size = masked.node_sum(jnp.ones_like(batch.tokens.logp), batch)
  calls = tree.fold_down((n.label[code] > 0).astype(jnp.int32), n.parent)
  before, length = tree.fold_down(jnp.where(calls == 0, size, 0.), n.parent), tree.fold_down(size, n.parent)
  chosen = on & (ret > 0) & (calls > 0)
  p, mean_length = groups.group_stats(before, n.group, chosen).mean, groups.group_stats(length, n.group, chosen).mean
  most = bound * jnp.abs(adv)
  bias = jnp.clip(delta * (before - p) / jnp.maximum(mean_length, 1), -most, most)
  return adv + tree.leaf_mean(jnp.where(chosen, bias, 0.), on, n.parent)
