"""Between the two tables, and along a sequence. Rows are packed, so `segment_*` is the only way to reduce over a sequence."""

import dataclasses

import jax
import jax.numpy as jnp

from rlx.tree import above
from rlx.types import Array, Batch, Tokens


def to_tokens(x: Array, tokens: Tokens) -> Array:
  """`[N]` -> `[R, T]`: each trained token gets what its step has, all others 0."""
  return jnp.where(tokens.mask, above(x, tokens.node, 0), jnp.zeros((), x.dtype))


def node_sum(x: Array, batch: Batch) -> Array:
  """`[R, T]` -> `[N]`: sum of x over the trained tokens of each step."""
  t, n = batch.tokens, batch.nodes.parent.shape[0]
  return jax.ops.segment_sum(jnp.where(t.mask, x, 0).ravel(), jnp.where(t.mask, t.node, n).ravel(), n)


def node_mean(x: Array, batch: Batch) -> Array:
  """`[R, T]` -> `[N]`: mean of x over the trained tokens of each step, 0 where there is none."""
  return node_sum(x, batch) / jnp.maximum(node_sum(jnp.ones_like(x), batch), 1)


def segment_sum(x: Array, tokens: Tokens, *, over: str, of: Array | None = None) -> Array:
  """`[R, T]` sum of x over each token's sequence, on every token of it.

  Args:
    x: `[R, T]`.
    tokens: the rows.
    over: 'owned': the tokens this row trains (averages); 'path': a shared prefix too (sequence-level ratios).
    of: `[R, T]` another sequence of the same row to take the sum of, by default the token's own.
  """
  seen = dict(owned=tokens.mask, path=tokens.sampled)[over]
  rows, width = x.shape
  start = jnp.arange(rows, dtype=jnp.int32)[:, None] * width
  at = jnp.where(tokens.segment >= 0, start + tokens.segment, rows * width)
  total = jax.ops.segment_sum(jnp.where(seen, x, 0).ravel(), at.ravel(), rows * width)
  return jnp.where(tokens.segment >= 0, total[start + (tokens.segment if of is None else of)], 0)


def segment_mean(x: Array, tokens: Tokens, *, over: str) -> Array:
  """`[R, T]` mean of x over each token's sequence, 0 where nothing is counted."""
  return segment_sum(x, tokens, over=over) / jnp.maximum(segment_sum(jnp.ones_like(x), tokens, over=over), 1)


def narrow(batch: Batch, keep: Array) -> Batch:
  """The batch with `keep` as its loss mask: what a loss sees."""
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, mask=keep))
