"""AEPO, the agentic one: advantages grow with the entropy of their token."""

import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Array, Batch


def aepo_agentic(batch: Batch, adv: Array, *, coef: float = 0.2, ddof: int = 1, entropy: str = 'entropy') -> Array:
  """The entropy-aware advantage of Agentic Entropy-Balanced Policy Optimization (modulator, token by token).

    A' = A (1 + coef z),   z = (H - mean H) / std H over all credited tokens of the batch (released: of the microbatch)

  Args:
    batch: reads `stream[entropy]` `[R, T]`, H of each token.
    adv: `[N]` or `[R, T]`, of any estimator.
    coef: weight of z.
    ddof: of the deviation.
    entropy: 'entropy', the sampler's, or what `score` wrote of a newer policy. The release takes it anew in every update.

  Returns:
    `[R, T]` f32; 0 outside the trained tokens of ended episodes. Where all entropies are equal, or there is one, z is 0.

  Source: multi-agent-deep-research/ARPO@870d54ca `AEPO/verl_aepo_entropy/verl/trainer/ppo/core_algos.py`
  `::compute_policy_loss_entropy_balanced_clipping`.

  Proof: twin.
  """
  n, t = batch.nodes, batch.tokens
  keep = t.mask & tree.above(tree.through(tree.ended(n), n.parent), t.node, False)
  count = jnp.sum(keep, dtype=jnp.float32)
  mean = lambda x, less: jnp.sum(jnp.where(keep, x, 0.)) / jnp.maximum(count - less, 1)
  h = t.stream[entropy]
  h = h - jnp.where(count > 0, jnp.min(h, where=keep, initial=jnp.inf), 0.)      # equal entropies deviate by exactly 0
  h = h - mean(h, 0)
  std = jnp.sqrt(mean(jnp.square(h), ddof))
  z = h / jnp.where(std > 0, std, 1.)
  return jnp.where(keep, (masked.to_tokens(adv, t) if adv.ndim == 1 else adv) * (1 + coef * z), 0.)
