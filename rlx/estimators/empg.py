"""EMPG: confident steps count more, uncertain ones less, and a step is paid for leading to a confident one."""

import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Array, Batch


def empg(batch: Batch, adv: Array, *, k: float = 1.0, k_future: float = 1.0, zeta: float = 0.1,
         centre: str | None = 'steps') -> Array:
  """Entropy-modulated advantages (arXiv:2509.09265; modulator).

    h = (H - min H) / (max H - min H + 1e-8),   H: the mean entropy of a step's tokens, min and max over all steps
    A' = A exp(-k h) / (mean exp(-k h) + 1e-8) + zeta exp(-k_future h'),   h': of the next step, if there is one
    A' - mean A' over all steps

  Args:
    batch: reads `stream['entropy']` `[R, T]`, of the policy that sampled.
    adv: `[N]`, of any estimator.
    k: how fast the weight falls with the entropy.
    k_future: how fast the bonus falls with the entropy of the next step.
    zeta: weight of the bonus; 0.1 on the project page, 0.05 in ARLArena.
    centre: 'steps': the mean over the steps is taken off, the bonus included; None: not.

  Returns:
    `[N]` f32; 0 where no ended episode runs through, and on steps without a trained token, which are in no statistic.
    Where a path branches, the bonus is the mean over next steps.

  Raises:
    ValueError: no such `centre`.

  Source: https://empgseed-seed.github.io; WillDreamer/ARLArena@dc1da9f7
  `recipe/shop_agent/ppo/core_algos.py::compute_EMPG_advantage`.

  Proof: twin.
  """
  if centre not in ('steps', None):
    raise ValueError(f"centre is 'steps' or None, not {centre!r}.")
  n, entropy = batch.nodes, batch.tokens.stream['entropy']
  said = tree.through(tree.ended(n), n.parent) & (masked.node_sum(jnp.ones_like(entropy), batch) > 0)
  mean = lambda x: jnp.sum(jnp.where(said, x, 0.)) / jnp.maximum(jnp.sum(said, dtype=jnp.float32), 1)
  h = masked.node_mean(entropy, batch)
  least, most = jnp.min(h, where=said, initial=jnp.inf), jnp.max(h, where=said, initial=-jnp.inf)
  h = jnp.where(said, (h - least) / (most - least + 1e-8), 0.)
  sure = jnp.exp(-k * h)
  bonus = tree.below(jnp.exp(-k_future * h) * tree.share(n.parent, said), n.parent)
  out = adv * sure / (mean(sure) + 1e-8) + zeta * bonus
  return jnp.where(said, out - mean(out) if centre else out, 0.)
