"""Batches with one column more."""

import dataclasses

import jax.numpy as jnp

from rlx import tree
from rlx.types import Array, Batch


def with_reward(batch: Batch, into: str, reward: Array, *of: str) -> Batch:
  """The batch with a reward channel, judged where all of the channels `of` are."""
  n = batch.nodes
  known = [tree.judged(n, k) for k in of if k in n.judged]
  judged = {**n.judged, **({into: jnp.all(jnp.stack(known), axis=0)} if known else {})}
  if not known:
    judged.pop(into, None)
  return dataclasses.replace(batch, nodes=dataclasses.replace(n, reward={**n.reward, into: reward}, judged=judged))
