"""Maximum likelihood of the kept tokens: imitation."""

import jax.numpy as jnp

from rlx.types import Loss


def sft() -> Loss:
  """l = -log pi(token), without a ratio, so tokens of demonstrations (`label['source']` > 0) may be seen.

  Which tokens: those the track keeps, for instance `dict(name='where', label='source')`.

  Source: any maximum-likelihood fine-tuning.

  Proof: twin.
  """
  def term(out, batch, adv, stats):
    del adv, stats
    return jnp.where(batch.tokens.mask, -out.logp, 0.)
  return Loss(term, local=True)
