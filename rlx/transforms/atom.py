"""Atom-Searcher's reward: thoughts count at first, the outcome in the end."""

import dataclasses

import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch

writes = ('reward/atom',)


def atom(batch: Batch, *, step: Array, until: float, begin: float = 0.0, start: float = 0.5, outcome: str = 'task',
         thought: str = 'prm', into: str = 'atom') -> Batch:
  """Adds `reward[into]`, on the last step of each episode (arXiv:2508.12800).

    r = a T + (1 - a) R,   a = start max(0, 1 - (step - begin) / (until - begin))

  T: mean score of the episode's thoughts, R: its return. That both are mixed, and the share a of the thoughts falls in
  training, is the paper's; the line, its ends and the mean are ours.

  Args:
    batch: reads `reward[outcome]`, summed along the path, and `reward[thought]`, each step's own (a judge's; a step is an
      atomic thought, cut by the segmenter or a turn). Steps whose thought has no verdict are left out of the mean.
    step: of the run, supplied by the loop.
    until: the step from which on only the outcome counts.
    begin: the step at which a begins to fall; steps count over all phases.
    start: a until then.
    outcome, thought: reward channels.
    into: the channel written. An episode without a verdict on the outcome, or on any thought, has none.

  Source: the abstract; antgroup/Research-Venus has no reward code.

  Proof: guess: the form of the mix and its schedule.
  """
  n = batch.nodes
  ret, on = tree.returns(n, outcome)
  given = tree.judged(n, thought)
  total = tree.fold_down(jnp.where(given, n.reward[thought], 0.), n.parent)
  count = tree.fold_down(jnp.where(given, 1., 0.), n.parent)
  on &= count > 0
  left = 1 - (jnp.asarray(step, jnp.float32) - begin) / jnp.maximum(until - begin, 1.)
  share = start * jnp.clip(left, 0, 1)
  paid = jnp.where(on, share * total / jnp.maximum(count, 1) + (1 - share) * ret, 0.)
  known = {into: on | ~tree.ended(n)} if {outcome, thought} & set(n.judged) else {}
  nodes = dataclasses.replace(n, reward={**n.reward, into: paid}, judged={**n.judged, **known})
  return dataclasses.replace(batch, nodes=nodes)
