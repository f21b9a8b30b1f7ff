"""Hi-Agent: a sub-goal against the other sub-goals for the same state, by how its execution went."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def hi_agent(batch: Batch, *, channel: str = 'turn', form: str | None = 'format', weight: float = 1.0,
             weight_form: float = 1.0, low: str | None = None, same: str | None = 'state', std: bool = True, ddof: int = 1,
             eps: float = 1e-6) -> Array:
  """The foresight advantage of a high-level step (arXiv:2510.14388).

    r_s = weight_form f_s + weight e_s,   A_s = (r_s - mean r) / (std r + eps) over the steps for the same state

  f: whether the step is in form; e: feedback of the execution. Each step is an episode of its own, so a long task is no
  longer than a short one and no critic is needed. Single steps and the use of feedback are the paper's; the group, its deviation and the
  form of r are ours.

  Args:
    batch: reads `reward[channel]` and `reward[form]`, each step's own, and `label[same]`.
    channel: reward channel of the feedback: whether what the low-level model did is what the sub-goal asked for.
    form: reward channel of the format; None: without.
    weight, weight_form: of the two.
    low: a label that is above 0 on the steps of the low-level model. Their feedback counts for the sub-goal before them, the
      mean where it was executed several times, and they have no advantage here (give them a track of their own). None: every
      step is high-level and its own reward is the feedback.
    same: label of the state; None: steps that answer the same previous step.
    std, ddof, eps: of the deviation; a state seen once gives 0.

  Returns:
    `[N]` f32; 0 where no ended episode runs through and where a verdict is missing.

  Source: the abstract; no code was found.

  Proof: guess: the reward of a sub-goal and the group.
  """
  n = batch.nodes
  live = tree.through(tree.ended(n), n.parent)
  goes = jnp.zeros_like(n.reward[channel])                      # what of a step's feedback goes to the step before
  if low is not None:
    goes = jnp.where(n.label[low] > 0, tree.share(n.parent, live), 0.)
  missing = tree.fold_up(jnp.where(tree.judged(n, channel), 0., 1.), n.parent, goes)
  high = live & (goes == 0) & (missing == 0)
  r = weight * tree.fold_up(n.reward[channel], n.parent, goes)
  if form is not None:
    r, high = r + weight_form * n.reward[form], high & tree.judged(n, form)
  ids = groups.dense_ids(n.group, n.parent if same is None else n.label[same])
  return groups.group_norm(r, ids, high, std=std, ddof=ddof, eps=eps)
