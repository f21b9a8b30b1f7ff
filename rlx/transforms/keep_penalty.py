"""HiPER's shaping: keeping the plan costs something, and so does saying another plan while keeping it."""

import dataclasses

import jax.numpy as jnp

from rlx import tree
from rlx.types import Batch

writes = ('reward/task',)


def keep_penalty(batch: Batch, *, total: float = -0.3, form: str = 'normalised', consistency: float = 0.0,
                 same: str = 'goal', into: str = 'task') -> Batch:
  """Adds HiPER's penalties (arXiv:2602.16165) to a reward channel.

    normalised: total / T on each step that keeps the plan, T the number of steps of its episode, nothing where T = 1
    fixed:      total on each step that keeps the plan
    both:       + consistency on a step that keeps the plan and says another one than the step before

  The first step counts like the others. A step that several episodes share has the mean over them.

  Args:
    batch: reads `reward[into]`, `label['switch']` (above 0: a new plan, else the step keeps it) and `label[same]`.
    total: what an episode loses that always keeps: -0.3 on ALFWorld, -3.5 on WebShop.
    form: 'normalised' or 'fixed'.
    consistency: -0.3 where it is used.
    same: label of the plan, equal = same; 0: the step says none, and neither it nor the next one is inconsistent (label
      function `block`).
    into: the channel that is changed.

  Returns:
    The batch. Steps without a judged, ended episode keep their reward.

  Raises:
    ValueError: no such form.

  Source: JonP07/HiPER-agent@9d3c118b `hiper_hae/core_hae.py::compute_hae_advantage`, `keep_penalty_mode`,
  `keep_penalty_normalized_style='distribute'` and `keep_consistency_requires_both`.

  Proof: twin.
  """
  if form not in ('normalised', 'fixed'):
    raise ValueError(f"form is 'normalised' or 'fixed', not {form!r}.")
  n = batch.nodes
  _, on = tree.returns(n, into)
  keeps = tree.through(on, n.parent) & (n.label['switch'] <= 0)
  length = tree.fold_down(jnp.ones_like(n.reward[into]), n.parent)
  each = tree.leaf_mean(jnp.where(length > 1, total / length, 0.), on, n.parent) if form == 'normalised' else total
  goal, before = n.label[same], tree.above(n.label[same], n.parent, 0)
  other = (goal != before) & (goal != 0) & (before != 0)
  paid = jnp.where(keeps, each + jnp.where(other, consistency, 0.), 0.)
  return dataclasses.replace(batch, nodes=dataclasses.replace(n, reward={**n.reward, into: n.reward[into] + paid}))
