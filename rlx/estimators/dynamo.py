"""DynaMO: good tokens that are certain count more, tokens that move the entropy most count less."""

import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Array, Batch


def dynamo(batch: Batch, adv: Array, *, most: float = 1.2, least: float = 0.6, steep: float = 50.0, at: float = 0.99,
           low: float = 0.2, high: float = 0.28, now: str = 'old_logp', entropy: str = 'entropy') -> Array:
  """Gradient-aware advantages (arXiv:2602.19208; modulator, token by token).

    A' = A b c
    b = 1 + (most - 1)(max H - H) / (max H - min H) where A > 0, else 1
    c = least + (1 - least) / (1 + exp(steep (x - at))),   x = X / max X,   X = |w (f - mean f)|
    f = p (log p + H),   w = r A where PPO does not clip (A > 0 and r <= 1 + high, A < 0 and r >= 1 - low), else 0

  H: entropy of the token, p: its probability now, r = p / p of the behaviour; the mean of f runs over the tokens of the
  episode, max and min over all credited tokens of the batch (released: of the microbatch).

  Args:
    batch: reads `tokens.logp`, `stream[now]` and `stream[entropy]`.
    adv: `[N]` or `[R, T]`, of any estimator.
    most, least: bounds of b and c, mu_max and lambda_min; with a strength alpha 1 + alpha and 1 - alpha ('decay5': alpha
      0.4).
    steep, at: gamma and tau; 50 and 0.99 in the released script, 50 and 0.9 in 'decay5'.
    low, high: clip range. The release makes 0.28 of a `high` of 0.2 without a word.
    now: stream with the log-probability now (transform `score`); '': that of the behaviour, so r = 1. The release takes it
      anew in every minibatch; here it is taken once, before the updates.
    entropy: stream with the entropy now: 'entropy', the sampler's, or what `score` wrote beside `now`.

  Returns:
    `[R, T]` f32; 0 outside the trained tokens of ended episodes. On a step that several episodes share, the mean of f is
    the mean over them.

  Source: GithubX-F/DynaMO-RL@63e5ec9a `verl/workers/actor/dp_actor.py`, mode `decay6_linearnorm`. Its budgets of rollouts
  are a matter of the explorer, not of this.

  Proof: twin.
  """
  n, t = batch.nodes, batch.tokens
  on = tree.ended(n)
  keep = t.mask & tree.above(tree.through(on, n.parent), t.node, False)
  adv = jnp.where(keep, masked.to_tokens(adv, t) if adv.ndim == 1 else adv, 0.)
  h, logp = t.stream[entropy], t.logp if now == '' else t.stream[now]

  f = jnp.where(keep, jnp.exp(logp) * (logp + h), 0.)
  along = lambda x: tree.fold_down(masked.node_sum(x, batch), n.parent)
  episode = along(f) / jnp.maximum(along(jnp.ones_like(f)), 1)
  f = f - tree.above(tree.leaf_mean(episode, on, n.parent), t.node, 0.)
  r = jnp.exp(jnp.clip(logp - t.logp, -20, 20))
  free = ((adv > 0) & (r <= 1 + high)) | ((adv < 0) & (r >= 1 - low))
  x = jnp.where(keep & free, jnp.abs(r * adv * f), 0.)
  calm = least + (1 - least) / (1 + jnp.exp(steep * (x / (jnp.max(x) + 1e-8) - at)))

  top, bottom = jnp.max(h, where=keep, initial=-jnp.inf), jnp.min(h, where=keep, initial=jnp.inf)
  sure = jnp.where(keep & (adv > 0), (top - h) / jnp.maximum(top - bottom, 1e-8), 0.)
  return adv * (1 + (most - 1) * sure) * calm
