"""Shaping by a potential, which changes no optimal policy."""

import jax.numpy as jnp

from rlx import tree
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/shaped',)


def potential(batch: Batch, *, value: str = 'potential', gamma: float = 1.0, into: str = 'shaped', channel: str = 'task',
              at: str = 'before') -> Batch:
  """Adds `reward[into]`, shaped as in Ng, Harada and Russell (ICML 1999, Policy invariance under reward transformations).

    r'_s = r_s + gamma Phi(what s leads to) - Phi(what s starts from);   Phi behind an end is 0

  The returns to go, discounted by this gamma, become G' = G - Phi(what s starts from): a baseline of the state. So without discount the
  returns of all episodes of a prompt move by one number and a group baseline does not see it; estimators of step returns and of token
  returns do. (Equal returns are equal up to rounding only, which a division by their deviation shows.)

  Args:
    batch: reads `reward[channel]` and `value[value]` `[N]`.
    value: name of Phi.
    gamma: the estimator's discount.
    into: the channel written; an episode without a verdict on `channel` has none there.
    channel: the reward that is shaped.
    at: 'before': the column is Phi of the state a step starts from, equal on steps that continue the same one (their mean is taken);
      'after': of the state a step leads to, as probes write it, and a first step starts from `prompt[value]`, or from 0 without it.
      An episode that was cut off ends too.

  Raises:
    ValueError: no such `at`.

  Proof: twin.
  """
  if at not in ('before', 'after'):
    raise ValueError(f"at is 'before' or 'after', not {at!r}.")
  n = batch.nodes
  on = tree.returns(n, channel)[1]
  live = tree.through(on, n.parent)
  phi, ends = jnp.where(live, n.value[value], 0.), tree.ended(n)
  if at == 'before':
    to = tree.below(phi * tree.share(n.parent, live), n.parent)
  else:
    to = phi
    phi = tree.above(phi, n.parent, batch.prompt[value][n.group] if value in batch.prompt else 0.)
  return with_reward(batch, into, n.reward[channel] + jnp.where(live, gamma * jnp.where(ends, 0., to) - phi, 0.), channel)
