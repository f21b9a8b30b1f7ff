"""SALT: rollouts that take the same transition share its advantage."""

import jax
import jax.numpy as jnp

from rlx import groups, tree
from rlx.estimators.grpo import grpo
from rlx.estimators.rloo import rloo
from rlx.types import Array, Batch


def salt(batch: Batch, *, channel: str = 'task', base: str = 'grpo', std: bool = True, ddof: int = 1, eps: float = 1e-6,
         visits: str = 'each', mix: float = 1.0) -> Array:
  """Step advantages from a graph of trajectories (arXiv:2510.20022), as another paper restates them; no code was released.

    A_s = mix mean_{(j, u): e(j, u) = e(s)} A_j + (1 - mix) A_i,   e: prompt, state, action and next state of a step

  j, u: step u of episode j. A transition that nobody else takes keeps its episode's advantage. What makes two states equal, that every
  visit counts, and that the shared number replaces the own one, are ours.

  Args:
    batch: reads `reward[channel]`, `label['state']`, `label['action']` and `label['next']`.
    channel: reward channel.
    base: where A_j comes from: 'grpo' or 'rloo'.
    std, ddof, eps: of 'grpo'.
    visits: 'each' visit of an episode counts, or 'once': its first one.
    mix: 1 replaces the own advantage, 0 leaves it.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. A step that several episodes share counts once for each of them, so that a tree
    gives what its paths would give by themselves.

  Raises:
    ValueError: no such base or visits.

  Source: the appendix of GRAFT, where SALT is a baseline.

  Proof: twin.
  """
  if base not in ('grpo', 'rloo'):
    raise ValueError(f"base is 'grpo' or 'rloo', not {base!r}.")
  if visits not in ('each', 'once'):
    raise ValueError(f"visits is 'each' or 'once', not {visits!r}.")
  n = batch.nodes
  own = grpo(batch, channel=channel, std=std, ddof=ddof, eps=eps) if base == 'grpo' else rloo(batch, channel=channel)
  count = tree.fold_up(tree.returns(n, channel)[1].astype(jnp.float32), n.parent)
  edge = groups.dense_ids(n.group, n.label['state'], n.label['action'], n.label['next'])
  weight = count if visits == 'each' else jnp.where(again(edge, n.parent), 0., count)
  total = lambda x: jax.ops.segment_sum(weight * x, edge, edge.shape[0])[edge]
  merged = total(own) / jnp.maximum(total(jnp.ones_like(own)), 1)
  return jnp.where(count > 0, mix * merged + (1 - mix) * own, 0.)


def again(ids: Array, parent: Array) -> Array:
  """`[N]` bool: an earlier step of the path has the same id. Runs in as many rounds as the tree is deep."""
  def look(s):
    seen, up = s
    return seen | (tree.above(ids, up, -1) == ids), tree.above(parent, up, -1)
  return jax.lax.while_loop(lambda s: jnp.any(s[1] >= 0), look, (jnp.zeros(ids.shape, bool), parent))[0]
