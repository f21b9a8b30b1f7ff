"""LTS: what admitting an entry to a shared memory was worth."""

import jax.numpy as jnp

from rlx import tree
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/lts',)


def lts(batch: Batch, *, channel: str = 'task', admit: str = 'admit', recalled: str = 'recalled', beta: float = 0.1,
        sparse: float = 0.01, into: str = 'lts') -> Batch:
  """Adds `reward[into]`, the usage credit of a memory controller's decisions (arXiv:2602.05965).

    r_s = 1{s admits} (beta 1{its entry was recalled later} w_s - sparse)

  w_s: the share of the episodes through s that were rewarded (return above 0). The paper adds it to the advantage of that decision
  alone: `gigpo` with weight=0, population='episodes' and this channel as its `penalty`, without the deviation, which would divide the bonus
  too. Its lambda_first is left out: what it weighs is not said. That the price of the admission rate is paid
  decision by decision is ours; so are beta and sparse, which were not published.

  Args:
    batch: reads `reward[channel]`, `label[admit]` and `label[recalled]`.
    channel: reward channel of the outcome.
    admit: label above 0 where the controller said yes.
    recalled: label above 0 where the entry of this step was recalled later.
    beta: bonus of an entry that was of use.
    sparse: price of an admission.
    into: the channel written, 0 where no ended episode runs through. It holds the usage credit alone, without the outcome.

  Proof: guess: beta, and how the admission rate is priced.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  yes = tree.through(on, n.parent) & (n.label[admit] > 0)
  used = jnp.where(n.label[recalled] > 0, tree.leaf_mean(jnp.where(ret > 0, 1., 0.), on, n.parent), 0.)
  return with_reward(batch, into, jnp.where(yes, beta * used - sparse, 0.))
