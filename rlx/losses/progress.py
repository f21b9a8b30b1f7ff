"""A progress estimator: contributions of the steps that add up to the episode's return."""

import jax
import jax.numpy as jnp

from rlx import masked, tree
from rlx.types import Array, Loss, Tokens


def progress(*, head: str = 'progress', channel: str = 'task') -> Loss:
  """Squared error of a sum of contributions (arXiv:2505.20732), on every token of an episode's sequence.

    l = (sum over the steps of an episode of c_s - R)^2,   c_s: the head's value at the last sampled token of the step

  With the average `seq_mean` the loss is the mean over episodes. A row must hold whole paths (`rows='paths'`, an append-only context);
  a step that several paths share learns from each of them, wherever it is trained. A sequence whose episode has no verdict gives 0.

  Args:
    head: the head c; a linear one reads hidden states (the release: the logits of the last token).
    channel: reward channel of R.

  Source: WangHanLinHenry/SPA-RL-Agent@ed200874 `prm/train_our_progress_model.py::prm_model`.

  Proof: twin.
  """
  def term(out, batch, adv, stats):
    del adv, stats
    t = batch.tokens
    ret, on = tree.returns(batch.nodes, channel)
    last = last_sampled(t)
    end = last & tree.above(on, t.node, False)
    total = lambda x: masked.segment_sum(x, t, over='path')
    miss = total(jnp.where(last, out.value[head], 0.)) - total(jnp.where(end, tree.above(ret, t.node, 0.), 0.))
    return jnp.where(t.mask & (total(end.astype(jnp.float32)) > 0), jnp.square(miss), 0.)
  return Loss(term, heads=(head,))


def last_sampled(tokens: Tokens) -> Array:
  """`[R, T]` bool: the last sampled token of each step, in every sequence that has it (`along.last_token`: where it is trained)."""
  rows, width = tokens.node.shape
  index = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (rows, width))
  after = jax.lax.cummin(jnp.where(tokens.sampled, index, width), axis=1, reverse=True)
  after = jnp.pad(after[:, 1:], ((0, 0), (0, 1)), constant_values=width)      # the next sampled token of the row
  at = lambda x: jnp.take_along_axis(x, jnp.minimum(after, width - 1), axis=1)
  same = (after < width) & (at(tokens.node) == tokens.node) & (at(tokens.segment) == tokens.segment)
  return tokens.sampled & ~same
