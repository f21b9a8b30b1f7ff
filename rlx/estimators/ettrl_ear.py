"""EAR of ETTRL: episodes that were drawn with less entropy than the others of their prompt count more."""

import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch


def ettrl_ear(batch: Batch, adv: Array, *, mode: str = 'residual', bound: float = 1.0, least: float = 0.0) -> Array:
  """Entropy-based reshaping of advantages (arXiv:2508.11356; modulator).

    'residual':  A'_i = Y_i A_i,   Y_i = max(1 + (mean H - H_i) / mean H, least)
    'clip':      A' = clip(A, -bound, bound)

  H_i: the mean entropy of the tokens of episode i, mean H: over the episodes of the prompt. Y would be negative where H_i is more
  than twice the mean; that it is not is ours, and so is `bound`, whose value was not found. No code was released.

  Args:
    batch: reads `stream['entropy']` `[R, T]`, that of sampling.
    adv: `[N]`.
    mode: 'residual', the paper's main form, or 'clip'.
    bound: of 'clip'.
    least: smallest Y.

  Returns:
    `[N]` f32; on a shared step Y is the mean over the episodes through it.

  Raises:
    ValueError: no such mode.

  Proof: twin.
  """
  if mode not in ('residual', 'clip'):
    raise ValueError(f"mode is 'residual' or 'clip', not {mode!r}.")
  if mode == 'clip':
    return jnp.clip(adv, -bound, bound)
  n, t = batch.nodes, batch.tokens
  on = tree.ended(n)
  total = lambda x: tree.fold_down(masked.node_sum(x, batch), n.parent)
  h = total(t.stream['entropy']) / jnp.maximum(total(jnp.ones_like(t.logp)), 1)
  mean = groups.group_stats(h, n.group, on).mean
  y = jnp.where(mean > 0, 1 + (mean - h) / jnp.where(mean > 0, mean, 1.), 1.)
  return adv * tree.leaf_mean(jnp.maximum(y, least), on, n.parent)
