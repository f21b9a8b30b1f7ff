"""G-RA: a reward counts only where everything above it in rank is good enough."""

import functools

import jax.numpy as jnp

from rlx import tree
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/gated',)


def gated(batch: Batch, *, outcome: str = 'task', parts: tuple = ('turn',), threshold: float = 0.0, into: str = 'gated') -> Batch:
  """Adds `reward[into]`, gated reward accumulation (arXiv:2508.10548).

    R = R_0 + sum_k 1{R_0 > threshold, ..., R_{k-1} > threshold} R_k,   R_0: the outcome, R_k: the sum over the steps of part k

  So with one part R = R_outcome + 1{R_outcome > threshold} sum_t r_t. What equals the threshold keeps a gate closed (as in a port).
  The paper's thresholds, one for each rank, and its weights of steps were not seen; one threshold for all is ours. In its software
  task the gate is closed where no patch was handed in.

  Args:
    batch: reads `reward[outcome]` and the channels of `parts`.
    outcome: the channel of the highest rank.
    parts: channels behind the gate, the higher in rank first.
    threshold: of every gate.
    into: the channel written, judged where all of these are. Every reward stays at its own step; one that stands on a step shared by
      episodes with an open and with a closed gate is paid at the last steps of the open ones, so that every return is right.

  Proof: twin.
  """
  n = batch.nodes
  ranks = [(n.reward[k], *tree.returns(n, k)) for k in (outcome, *parts)]
  on = opens = functools.reduce(jnp.logical_and, (judged for _, _, judged in ranks))
  reward = ranks[0][0]
  for (_, above, _), (r, _, _) in zip(ranks, ranks[1:], strict=False):
    opens = opens & (above > threshold)
    everywhere = tree.through(opens, n.parent) & ~tree.through(on & ~opens, n.parent)
    late = tree.fold_down(jnp.where(everywhere, 0., r), n.parent)
    reward = reward + jnp.where(everywhere, r, 0.) + jnp.where(opens, late, 0.)
  return with_reward(batch, into, reward, outcome, *parts)
