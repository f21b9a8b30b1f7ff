"""DAPO's soft punishment of answers that run out of room."""

import jax.numpy as jnp

from rlx import masked, tree
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/length',)


def length_penalty(batch: Batch, *, limit: float = 20480.0, buffer: float = 4096.0, factor: float = 1.0, into: str = 'length',
                   per: str = 'path', channel: str | None = None) -> Batch:
  """Adds `reward[into]`, soft overlong punishment (DAPO, arXiv:2503.14476, eq. 13).

    r = min(0, -factor (L - (limit - buffer)) / buffer),   L: sampled tokens

  So -factor at the limit, and more behind it (as released; the paper stops there).

  Args:
    batch: any.
    limit: tokens an answer may have.
    buffer: over how many of the last of them the punishment grows.
    factor: its size at the limit.
    into: the channel written.
    per: 'path': L of the episode, on its last step; 'step': L of the step, on it.
    channel: a channel that it is added to (DAPO's correctness, +1 or -1); None: the punishment alone.

  Raises:
    ValueError: no such `per`.

  Source: volcengine/verl@b178a3cd `verl/workers/reward_manager/dapo.py`.

  Proof: twin.
  """
  if per not in ('path', 'step'):
    raise ValueError(f"per is 'path' or 'step', not {per!r}.")
  n = batch.nodes
  size = masked.node_sum(jnp.ones_like(batch.tokens.logp), batch)
  over = (tree.fold_down(size, n.parent) if per == 'path' else size) - (limit - buffer)
  paid = jnp.where(tree.ended(n) if per == 'path' else n.valid, jnp.minimum(-over / buffer * factor, 0.), 0.)
  return with_reward(batch, into, paid + n.reward[channel], channel) if channel else with_reward(batch, into, paid)
