"""G-RA: step rewards count only where the outcome is good enough."""

import jax.numpy as jnp

from rlx import tree
from rlx.transforms.otc import with_reward
from rlx.types import Batch

writes = ('reward/gated',)


def gated(batch: Batch, *, outcome: str = 'task', parts: tuple = ('turn',), threshold: float = 0.0, into: str = 'gated') -> Batch:
  """Adds `reward[into]`, gated reward accumulation (arXiv:2508.10548).

    R = r_outcome + 1{r_outcome > threshold} sum_t r_t,   r_t: the sum of the `parts` at step t

  A return that equals the threshold keeps the gate closed (as in a port). The paper's threshold and its weights of steps were not
  seen; in its software task the gate is closed where no patch was handed in.

  Args:
    batch: reads `reward[outcome]` and the channels of `parts`.
    outcome: reward channel whose return opens the gate.
    parts: reward channels behind the gate.
    threshold: of the gate.
    into: the channel written, judged where all of these are. Every reward stays at its own step; one that stands on a step shared by
      episodes with an open and with a closed gate is paid at the last steps of the open ones, so that every return is right.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, outcome)
  opens = on & (ret > threshold)
  r = sum((n.reward[k] for k in parts), jnp.zeros_like(ret))
  everywhere = tree.through(opens, n.parent) & ~tree.through(on & ~opens, n.parent)
  late = tree.fold_down(jnp.where(everywhere, 0., r), n.parent)
  return with_reward(batch, into, n.reward[outcome] + jnp.where(everywhere, r, 0.) + jnp.where(opens, late, 0.), outcome, *parts)
