"""The entropy bonus."""

import jax.numpy as jnp

from rlx.types import Loss


def entropy() -> Loss:
  """l = -H, the entropy of the next-token distribution in nats, over the whole vocabulary.

  The coefficient of the track is positive for more entropy. `forward` gives H at the sampling temperature.

  Source: arXiv:1602.01783, sec. 4.

  Proof: twin.
  """
  def term(out, batch, adv, stats):
    del adv, stats
    return jnp.where(batch.tokens.mask, -out.entropy, 0.)
  return Loss(term, local=True)
