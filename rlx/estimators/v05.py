"""V_0.5: a baseline between what a value model expected of a prompt and what its few rollouts got."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def v05(batch: Batch, *, channel: str = 'task', prior: str = 'prior', variance: str = 'prior', ddof: int = 1) -> Array:
  """Returns against a prior shrunk towards the empirical mean (arXiv:2603.10848).

    A_i = R_i - b,   b = m + w (v - m)
    w = s / (s + D),   s = var / n,   D = max(0, (m - v)^2 - s)

  v: the prior, m and var: mean and variance of the n returns of the prompt. Where they agree within the noise of m, w is 1
  and the prior is the baseline; the more they conflict, the more m counts. So the rollouts of a prompt that all failed, or
  all succeeded, still teach. That prior and mean are fused, with the least squared error, is the paper's; w is ours (the
  positive part of James and Stein).

  Args:
    batch: reads `reward[channel]`, summed along the path, and `prompt[prior]` `[G]`, in the unit of the returns.
    channel: reward channel.
    prior: what was expected of the prompt before it was tried: by a value model (V_0 in the paper), a probe, a count.
    variance: 'prior': where the returns are all equal (or there is one) var is v (1 - v), for returns of 0 or 1: the
      sample's is 0 and would discard the prior of a prompt that always failed; 'sample': the sample's always.
    ddof: of the sample's variance.

  Returns:
    `[N]` f32; 0 where no ended episode runs through; a shared step has the mean over its episodes.

  Raises:
    ValueError: no such variance.

  Source: the abstract; Now-Join-Us/V0@2c09c7ce has the value model only.

  Proof: guess: the weight w and the variance in it.
  """
  if variance not in ('prior', 'sample'):
    raise ValueError(f"variance is 'prior' or 'sample', not {variance!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  g = groups.group_stats(ret, n.group, on)
  v = batch.prompt[prior][n.group]
  var = g.square / jnp.maximum(g.count - ddof, 1)
  if variance == 'prior':
    var = jnp.where(g.square > 0, var, jnp.maximum(v * (1 - v), 0))
  noise = var / jnp.maximum(g.count, 1)
  both = noise + jnp.maximum(jnp.square(g.mean - v) - noise, 0)
  w = jnp.where(both > 0, noise / jnp.where(both > 0, both, 1.), 1.)
  return tree.leaf_mean(ret - (g.mean + w * (v - g.mean)), on, n.parent)
