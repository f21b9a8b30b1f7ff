"""The clipped surrogate of PPO, with unequal bounds and dual clip."""

import jax.numpy as jnp

from rlx.types import Loss


def ppo_clip(*, low: float = 0.2, high: float = 0.2, dual: float | None = None, old: str = 'logp') -> Loss:
  """PPO's clipped policy loss (arXiv:1707.06347, eq. 7), one value a token.

    r = exp(clip(logp - old, -20, 20))
    l = max(-A r, -A clip(r, 1 - low, 1 + high)),   where A < 0 at most -A dual (arXiv:1912.09729)

  The gradient is that of -A r, or 0 where clipped: A > 0 and r > 1 + high; A < 0 and r < 1 - low; A < 0 and r > dual.

  Args:
    low, high: clip range; 0.2 and 0.28 in DAPO (arXiv:2503.14476).
    dual: above 1; verl 3, DAPO 10; None: no dual clip (the papers of PPO and GRPO).
    old: what the ratio is taken against: 'logp', the behaviour, or a stream such as 'old_logp'.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_policy_loss_vanilla`.

  Proof: golden.
  """
  def term(out, batch, adv, stats):
    del stats
    t = batch.tokens
    before = t.logp if old == 'logp' else t.stream[old]
    r = jnp.exp(jnp.clip(jnp.where(t.mask, out.logp - before, 0.), -20, 20))
    loss = jnp.maximum(-adv * r, -adv * jnp.clip(r, 1 - low, 1 + high))
    if dual is not None:
      loss = jnp.where(adv < 0, jnp.minimum(loss, -adv * dual), loss)
    return jnp.where(t.mask, loss, 0.)
  return Loss(term, local=True)
