"""SEED-GRPO: the less the answers to a prompt agree, the less is learned from it."""

import jax
import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch


def seed_grpo(batch: Batch, adv: Array, *, answer: str = 'answer', weights: str = 'counts', shape: str = 'linear', alpha: float = 1.0,
              power: float = 1.0) -> Array:
  """Advantages scaled by the semantic entropy of their prompt (arXiv:2505.12346; modulator, behind `grpo` with std=False).

    A' = A f(alpha SE / log G),   SE = -1/K sum_k log p_k
    f(x): 'linear' max(1 - x, 0), 'exp' exp(-x), 'focal' max(1 - x, 0)^power

  K: the distinct answers among the prompt's G episodes, p_k: the share of answer k. SE is 0 where all agree, and x 0 for the only
  episode of a prompt. No code was released; which f and alpha are the paper's, shares by counts, that probabilities are normalised
  over the prompt's episodes, and the bound at 0 are ours.

  Args:
    batch: reads `label[answer]` at the last step of each episode, and `logp` with 'probability'.
    adv: `[N]`.
    answer: label of what an episode answered; equal is the same meaning.
    weights: 'counts': p_k is the share of episodes, or 'probability': the share of exp(sum of logp over the path).
    shape: 'linear', 'exp' or 'focal'.
    alpha: how strongly.
    power: of 'focal'.

  Returns:
    `[N]` f32.

  Raises:
    ValueError: no such weights or shape.

  Proof: twin.
  """
  if weights not in ('counts', 'probability'):
    raise ValueError(f"weights is 'counts' or 'probability', not {weights!r}.")
  if shape not in ('linear', 'exp', 'focal'):
    raise ValueError(f"shape is 'linear', 'exp' or 'focal', not {shape!r}.")
  n = batch.nodes
  on, size = tree.ended(n), n.parent.shape[0]
  cluster = groups.dense_ids(jnp.where(on, n.group, -1), jnp.where(on, n.label[answer], -1))
  path = tree.fold_down(masked.node_sum(batch.tokens.logp, batch), n.parent) if weights == 'probability' else jnp.zeros(size)
  log_p = _log_sum(path, cluster, on) - _log_sum(path, n.group, on)
  one = on & (cluster == jnp.arange(size, dtype=cluster.dtype))           # a member for each cluster
  entropy = -groups.group_stats(log_p, n.group, one).mean
  most = jnp.log(jnp.maximum(groups.group_stats(path, n.group, on).count, 1))
  x = alpha * jnp.where(most > 0, entropy / jnp.where(most > 0, most, 1.), 0.)
  if shape == 'exp':
    return adv * jnp.exp(-x)
  rest = jnp.maximum(1 - x, 0)
  return adv * (rest if shape == 'linear' else rest ** power)


def _log_sum(x, ids, where):
  """`[N]` log of the sum of exp(x) over the members of each group in `where`."""
  size = x.shape[0]
  top = jax.ops.segment_max(jnp.where(where, x, -jnp.inf), ids, size)[ids]
  top = jnp.where(jnp.isfinite(top), top, 0)
  total = jax.ops.segment_sum(jnp.where(where, jnp.exp(x - top), 0), ids, size)[ids]
  return top + jnp.log(jnp.where(total > 0, total, 1))
