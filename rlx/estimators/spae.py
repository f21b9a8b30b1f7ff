"""SPAE: the episode's advantage, damped once the answer is known, plus what a step added to the potential."""

import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch


def spae(batch: Batch, *, channel: str = 'task', potential: str = 'potential', alpha: float = 0.5, xi: float = 0.5,
         saturation: float = 0.9, whiten: bool = True, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Step potential advantages (arXiv:2601.03823).

    A_k = (R - mean_g R) f_k + xi g_k,   then (A - mean) / (std + eps) over the credited tokens of the batch
    f_k = 1 - alpha (1 - exp(-C_k)),     C_k: earlier steps of the path with a potential above `saturation`
    g_k = exp(D_k) - mean exp(D),        D: Phi_k - Phi_{k-1}, scaled to [0, 1] over the steps of the batch; 0 before that on a first step

  That D is scaled over the batch, and `saturation`, are ours; so is D = 0 where all steps gained the same.

  Args:
    batch: reads `reward[channel]` and `value[potential]` `[N]` (probe `spae`, transform `spae_potential`).
    channel: reward channel.
    potential: name of Phi.
    alpha: how much of the episode's advantage goes once the potential is high; of negative ones too.
    xi: weight of the step's part.
    saturation: potential above which the answer is as good as known.
    whiten: to mean 0 and deviation 1 at the end; over tokens, so a step counts as often as it has trained ones.
    ddof, eps: of that deviation (ours).

  Returns:
    `[N]` f32; 0 where no ended episode runs through.

  Source: cii030/SPAE-RL@ed529f8a releases the probe only.

  Proof: guess: over what D is scaled, and the saturation.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live, phi = tree.through(on, n.parent), n.value[potential]
  episode = tree.leaf_mean(groups.group_norm(ret, n.group, on, std=False, ddof=0), on, n.parent)
  high = (live & (phi > saturation)).astype(jnp.float32)
  known = tree.fold_down(high, n.parent) - high
  gain = phi - tree.above(phi, n.parent, phi)
  low, top = jnp.min(gain, where=live, initial=jnp.inf), jnp.max(gain, where=live, initial=-jnp.inf)
  gain = jnp.exp(jnp.where(live & (top > low), (gain - low) / jnp.where(top > low, top - low, 1.), 0.))
  gain = gain - jnp.sum(gain, where=live) / jnp.maximum(jnp.sum(live, dtype=jnp.float32), 1)
  adv = jnp.where(live, episode * (1 - alpha * (1 - jnp.exp(-known))) + xi * gain, 0.)
  if not whiten:
    return adv
  size = jnp.where(live, masked.node_sum(jnp.ones_like(batch.tokens.logp), batch), 0.)
  total = jnp.sum(size)
  adv = adv - jnp.min(adv, where=live, initial=jnp.inf)      # equal ones deviate by exactly 0
  adv = jnp.where(live, adv - jnp.sum(jnp.where(live, size * adv, 0.)) / jnp.maximum(total, 1), 0.)
  return adv / (jnp.sqrt(jnp.sum(size * jnp.square(adv)) / jnp.maximum(total - ddof, 1)) + eps)
