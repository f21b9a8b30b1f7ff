"""Averages `(batch, keep [R, T]) -> (num [R, T], den [R, T])`: a track's loss is sum(term * num) / sum(den).

Sums run over the whole minibatch, so microbatches and devices change nothing. Worked numbers (losses 1 2 3 | 4 in two
sequences, sheet B1): token_mean 2.5, seq_mean 3, constant(4) 1.25.
"""

import jax.numpy as jnp

from rlx.masked import node_sum, segment_sum
from rlx.tree import above
from rlx.types import Array, Batch


def token_mean(batch: Batch, keep: Array) -> tuple[Array, Array]:
  """Every kept token counts the same (DAPO)."""
  del batch
  k = keep.astype(jnp.float32)
  return k, k


def seq_mean(batch: Batch, keep: Array) -> tuple[Array, Array]:
  """The mean over sequences of the mean over their kept tokens (GRPO); sequences without one do not count."""
  k = keep.astype(jnp.float32)
  w = k / jnp.maximum(_count(batch, k), 1)
  return w, w


def turn_mean(batch: Batch, keep: Array) -> tuple[Array, Array]:
  """The mean over steps of the mean over their kept tokens."""
  k = keep.astype(jnp.float32)
  w = k / jnp.maximum(above(node_sum(k, batch), batch.tokens.node, 1), 1)
  return w, w


def constant(*, length: float):
  """Token sums over a fixed length, averaged over sequences with kept tokens (Dr. GRPO, arXiv:2503.20783)."""
  def average(batch: Batch, keep: Array) -> tuple[Array, Array]:
    return keep.astype(jnp.float32) / length, seq_mean(batch, keep)[1]
  return average


def original_tokens(batch: Batch, keep: Array) -> tuple[Array, Array]:
  """Kept tokens over all trained tokens: what a selector dropped still counts in the denominator."""
  return keep.astype(jnp.float32), batch.tokens.mask.astype(jnp.float32)


original_tokens.whole = True      # rows without a kept token are not left out, since they count


def _count(batch, k):
  return segment_sum(k, batch.tokens, over='owned')
