"""TreeRL: what a step adds to the mean leave-one-out reward of the leaves below it."""

import jax
import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Array, Batch

MODES = ('td_value', 'td', 'value', 'chain', 'chain_td', 'ancestors')


def treerl(batch: Batch, *, channel: str = 'task', select: str = 'selected', centre: str | None = 'token',
           weight: str | None = 'sqrt', fill: bool = True, mode: str = 'td_value') -> Array:
  """Process advantages from the leaves of a tree (arXiv:2506.11902).

    L_l = R_l - mean of the prompt's other leaves
    V(n) = (mean of L over the leaves below n - mu) / sqrt(selected leaves below n)
    A(n) = td(n) + V(n),   td(n) = V(n) - V(previous step; the question before a first step)

  mu is the mean of L over all pairs of a step and a leaf below it, each weighted by the tokens of the step.

  Args:
    batch: reads `reward[channel]` and, where the batch has it, `label[select]`.
    channel: reward channel.
    select: the label that is above 0 on leaves that are trained; without it all are. It changes weights only: leave the other
      steps out with a selector.
    centre: weights of mu: 'token', 'step': each step as 1 (the question counts as one), None: mu is 0.
    weight: V is divided by the root of the number of selected leaves ('sqrt'), by the number ('all', released 'uniform'), or
      not (None); never where none is selected.
    fill: a step that is not the first and changes nothing gets the td of the step before it. Nothing is 1e-6 of the leaves'
      spread; 1e-8 as released, in double precision.
    mode: 'td_value' (the released script), 'td', 'value'; 'chain': the mean of L below; 'chain_td': td plus that;
      'ancestors': the mean of V(n) - V(a) over all previous steps a and the question, never filled. For 'chain' and
      'chain_td' the release takes the mean of the other selected leaves from L once more.

  Returns:
    `[N]` f32; 0 where no ended episode runs through, and in a prompt with a single leaf.

  Source: THUDM/TreeRL@f0edbea6 `openrlhf/trainer/ppo_utils/tree_node.py`: `leaf_normalize`, `normalize_all_steps`,
  `compute_weighted_update`; `parallel_mcts.py`: `path_from_root_to_node`, `fill_in_paths`, `gather_paths`.

  Proof: twin.
  """
  if mode not in MODES:
    raise ValueError(f'mode is one of {", ".join(MODES)}, not {mode!r}.')
  if centre not in ('token', 'step', None):
    raise ValueError(f"centre is 'token', 'step' or None, not {centre!r}.")
  if weight not in ('sqrt', 'all', None):
    raise ValueError(f"weight is 'sqrt', 'all' or None, not {weight!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  pick = on & (n.label[select] > 0) if select in n.label else on
  over = lambda x: jax.ops.segment_sum(x, n.group, n.parent.shape[0])[n.group]
  scale = dict(sqrt=lambda k: jnp.sqrt(jnp.maximum(k, 1.)), all=lambda k: jnp.maximum(k, 1.)).get(weight, lambda k: 1.)
  g = groups.group_stats(ret, n.group, on)
  leaf = jnp.where(on, (ret - g.mean) * g.count / jnp.maximum(g.count - 1, 1), 0.)
  total, leaves, picked = (tree.fold_up(x, n.parent) for x in (leaf, jnp.where(on, 1., 0.), jnp.where(pick, 1., 0.)))
  shift = jnp.zeros_like(leaf)
  if centre is not None:
    size = masked.node_sum(jnp.ones_like(batch.tokens.logp), batch) if centre == 'token' else jnp.ones_like(leaf)
    shift = over(total * size) / jnp.maximum(over(leaves * size) + (g.count if centre == 'step' else 0.), 1.)
  chain = total / jnp.maximum(leaves, 1)
  v = (chain - shift) / scale(picked)
  root = -shift / scale(over(jnp.where(pick, 1., 0.)))       # the leave-one-out rewards of a prompt sum to 0
  td = v - tree.above(v, n.parent, root)
  if fill:
    same = (jnp.abs(td) <= 1e-6 * jnp.sqrt(g.square)) & (n.parent >= 0)
    td = tree.fold_down(jnp.where(same, 0., td), n.parent, jnp.where(same, 1., 0.))
  before = lambda x: tree.above(tree.fold_down(x, n.parent), n.parent, 0.)         # sums over the previous steps
  adv = dict(td_value=lambda: td + v, td=lambda: td, value=lambda: v, chain=lambda: chain, chain_td=lambda: td + chain,
             ancestors=lambda: v - (before(v) + root) / (before(jnp.ones_like(v)) + 1))[mode]()
  return jnp.where(leaves > 0, adv, 0.)
