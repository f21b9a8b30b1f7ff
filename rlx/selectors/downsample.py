"""IterResearch's down-sampling: as many steps as divide evenly."""

import jax
import jax.numpy as jnp

from rlx import masked
from rlx.types import Array, Batch


def downsample(batch: Batch, keep: Array, *, key: Array, multiple: int = 8) -> Array:
  """Drops steps at random until their number is a multiple (arXiv:2511.07327).

    |C_train| = floor(|C| / multiple) multiple,   C: the steps with kept tokens

  There a step is a sample of its own and `multiple` the number of devices. That the dropped ones are drawn at random is ours.

  Args:
    batch: any.
    keep: `[R, T]` bool.
    key: supplied by the loop.
    multiple: of at least 1; with fewer steps than that none is left.

  Returns:
    `[R, T]` bool.

  Raises:
    ValueError: a multiple below 1.

  Proof: guess: which steps are dropped.
  """
  if multiple < 1:
    raise ValueError(f'multiple is at least 1, not {multiple}.')
  has = masked.node_sum(keep.astype(jnp.float32), batch) > 0
  order = jnp.argsort(jnp.where(has, jax.random.uniform(key, has.shape), 2.))
  count = jnp.sum(has, dtype=jnp.int32) // multiple * multiple
  stays = jnp.zeros_like(has).at[order].set(jnp.arange(has.shape[0], dtype=jnp.int32) < count)
  return keep & masked.to_tokens(stays, batch.tokens)
