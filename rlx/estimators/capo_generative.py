"""CAPO, the one with a generative process reward model: the outcome, less the steps a judge found wrong."""

import jax
import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Array, Batch


def capo_generative(batch: Batch, *, channel: str = 'task', process: str = 'process', whole: float = 2.0, part: float = 1.0,
                    ddof: int = 1, eps: float = 1e-6) -> Array:
  """Token rewards from a rule and a judge, normalised over the tokens of the prompt (arXiv:2508.02298).

    A_t = (R_t - mean R) / (std R + eps),   R_t = whole r_v - part 1{t is in a step judged wrong}

  r_v: the episode's verdict of the rule, 0 or 1. That mean and deviation run over all trained tokens of the prompt is ours; a shared
  token is trained once and counts once, with the mean of r_v over the episodes through it.

  Args:
    batch: reads `reward[channel]` and `reward[process]`, which is -1 on a step judged wrong and 0 elsewhere (reward `capo`).
    channel: reward channel of the rule; r_v is the return.
    process: reward channel of the judge.
    whole, part: weights.
    ddof, eps: of the deviation (ours).

  Returns:
    `[N]` f32, since all tokens of a step have the same; 0 where no ended episode with verdicts in both channels runs through.

  Proof: guess: over what the token rewards are normalised.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  on &= tree.returns(n, process)[1]
  live, ids = tree.through(on, n.parent), n.group
  reward = whole * tree.leaf_mean(ret, on, n.parent) + part * n.reward[process]
  size = jnp.where(live, masked.node_sum(jnp.ones_like(batch.tokens.logp), batch), 0.)
  total = lambda x: jax.ops.segment_sum(size * x, ids, ids.shape[0])[ids]
  least = jax.ops.segment_min(jnp.where(live, reward, jnp.inf), ids, ids.shape[0])[ids]
  dev = jnp.where(live, reward - least, 0.)                              # equal ones deviate by exactly 0
  count = total(jnp.ones_like(dev))
  dev = jnp.where(live, dev - total(dev) / jnp.maximum(count, 1), 0.)
  return dev / (jnp.sqrt(total(jnp.square(dev)) / jnp.maximum(count - ddof, 1)) + eps)
