"""TreePS-RAG: what a step adds to the mean outcome of the leaves below it."""

import jax
import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def treeps(batch: Batch, *, channel: str = 'task', mode: str = 'td', ddof: int = 0, eps: float = 1e-6) -> Array:
  """Process advantages from the outcomes of a tree's leaves (arXiv:2601.06922).

    V(n) = mean of R over the leaves below n;   V(question) = mean of R over the prompt's leaves
    td:   A(n) = V(n) - V(previous step)
    sib:  A(n) = (V(n) - mean V) / (std V + eps)   over the steps that answer the same previous step
    mix:  A(n) = (V(n) - V(question)) + (V(n) - V(previous step))

  V is the paper's; how it becomes an advantage is not known, the three modes are ours. A leaf that a limit cut off counts
  with the reward it has. A shared step is trained once, so it needs no weight for the leaves below it. On a chain V is the
  same at all steps: grow a tree (explorer `levels`).

  Args:
    batch: reads `reward[channel]`; R is its sum along the path, over episodes with end 1 or 2.
    channel: reward channel.
    mode: 'td', 'sib' or 'mix'.
    ddof, eps: of the deviation of 'sib'; a step without siblings gets 0 there. First steps are siblings of each other.

  Returns:
    `[N]` f32; 0 where no ended episode runs through, and everywhere in a prompt whose leaves are equal.

  Raises:
    ValueError: no such mode.

  Source: the abstract; no code was found.

  Proof: guess: how V becomes an advantage.
  """
  if mode not in ('td', 'sib', 'mix'):
    raise ValueError(f"mode is 'td', 'sib' or 'mix', not {mode!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  least = jax.ops.segment_min(jnp.where(on, ret, jnp.inf), n.group, n.parent.shape[0])[n.group]
  ret = jnp.where(on, ret - least, 0.)      # equal leaves are exactly 0, and those of 0 and 1 stay whole numbers
  v, root = tree.leaf_mean(ret, on, n.parent), groups.group_stats(ret, n.group, on).mean
  if mode == 'sib':
    return groups.group_norm(v, groups.dense_ids(n.group, n.parent), live, std=True, ddof=ddof, eps=eps)
  adv = v - tree.above(v, n.parent, root)
  return jnp.where(live, adv + (v - root) if mode == 'mix' else adv, 0.)
