"""DuCA: turns and sessions, each against its own kind, and only then added."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def duca(batch: Batch, *, session: str = 'session', turn: str = 'turn', weight: float = 1.0, weight_session: float = 1.0,
         pool: str = 'prompt', index: str = 'turn', ddof: int = 0, eps: float = 1e-6) -> Array:
  """Dual-horizon advantages, normalised before they are fused (HIAN, arXiv:2603.01481).

    A_s = weight (x_s - m) / (d + eps) + weight_session (R - mean_g R) / (std_g R + eps)

  x: the reward of a turn, m and d its mean and deviation over `pool`; R: what the session was paid, over the episodes of the
  prompt. So neither horizon drowns the other, whatever its scale. That each is normalised by itself is the paper's; over
  what turns are compared, the weights and the deviations are ours.

  Args:
    batch: reads `reward[session]`, summed along the path, and `reward[turn]`, each step's own.
    session: reward channel of the outcome.
    turn: reward channel of the turns. A step without a verdict has no turn part and is in no statistic of it.
    weight, weight_session: of the two parts.
    pool: turns are compared with all turns of the prompt ('prompt'), or with those of the same `label[index]` ('turn').
    index: label of the turn's number, for pool='turn'.
    ddof, eps: of both deviations.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. A part without variance is 0; a shared step counts once among the turns
    and has the mean over its episodes in the session's part.

  Raises:
    ValueError: no such pool.

  Source: the abstract; no code was found.

  Proof: guess: the pool of turns, the weights and the deviations.
  """
  if pool not in ('prompt', 'turn'):
    raise ValueError(f"pool is 'prompt' or 'turn', not {pool!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, session)
  live = tree.through(on, n.parent)
  ids = n.group if pool == 'prompt' else groups.dense_ids(n.group, n.label[index])
  norm = lambda x, ids, where: groups.group_norm(x, ids, where, std=True, ddof=ddof, eps=eps)
  step = norm(n.reward[turn], ids, live & tree.judged(n, turn))
  episode = tree.leaf_mean(norm(ret, n.group, on), on, n.parent)
  return jnp.where(live, weight * step + weight_session * episode, 0.)
