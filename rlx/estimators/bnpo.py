"""BNPO: centred returns, weighted by a Beta density fitted to the prompts' success rates."""

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln

from rlx import groups, tree
from rlx.types import Array, Batch


def bnpo(batch: Batch, *, channel: str = 'task', low: float = 0., high: float = 1., cap: float = 1e6) -> Array:
  """Beta normalisation (arXiv:2506.02864).

    A_i = w_g (r_i - p_g),   r = (R - low) / (high - low),   p_g = mean_g r,   w_g = min(1 / Beta(p_g; alpha, beta), cap)
    alpha = max(1, 1 + a / 3),   beta = max(1, 1 + b / 3),   a = s m,   b = s (1 - m),   s = m (1 - m) / v - 1

  m and v are the mean and the variance (factor n / (n - 1)) of p over the prompts of the batch that have an episode, a and b the
  Beta distribution with these moments. alpha = beta = 1 is REINFORCE with a baseline, 3/2 is GRPO up to a constant. For
  several rewards the paper averages the advantages of each: tracks do that.

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    low, high: the least and the largest R there can be.
    cap: largest weight.

  Returns:
    `[N]` f32; a shared step has the mean over the episodes through it, 0 where no ended episode runs through. A single prompt
    has w = 1, and so have prompts whose p are all equal (ours: the release divides by 0) and one whose p is beyond [0, 1], which
    low and high should exclude. Where p is 0 or 1 A is 0; in a group of one it is 0 too (the release takes p = 0 there).

  Source: changyi7231/BNPO@a9c51b98 `recipe/bnpo/src/bnpo_ray_trainer.py::compute_bnpo_outcome_advantage`.

  Proof: golden.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  score = (ret - low) / (high - low)
  p = groups.group_stats(score, n.group, on).mean
  size = p.shape[0]
  rows = jnp.arange(size, dtype=jnp.int32)
  first = on & (rows == jax.ops.segment_min(jnp.where(on, rows, size), n.group, size)[n.group])   # one episode a prompt
  over = groups.group_stats(p, jnp.zeros_like(n.group), first)
  m, equal = over.mean, over.square == 0
  s = m * (1 - m) / jnp.where(equal, 1., over.square / jnp.maximum(over.count - 1, 1)) - 1
  alpha, beta = jnp.maximum(1 + s * m / 3, 1), jnp.maximum(1 + s * (1 - m) / 3, 1)
  inside = (p > 0) & (p < 1)
  q = jnp.where(inside, p, .5)
  density = (alpha - 1) * jnp.log(q) + (beta - 1) * jnp.log1p(-q) - betaln(alpha, beta)
  w = jnp.where(inside & ~equal, jnp.minimum(jnp.exp(-density), cap), 1.)
  return tree.leaf_mean(jnp.where((p == 0) | (p == 1), 0., w * (score - p)), on, n.parent)
