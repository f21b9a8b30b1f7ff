"""A progress estimator: contributions of the steps that add up to the episode's return."""

import jax
import jax.numpy as jnp

from rlx import along, masked, tree
from rlx.types import Array, Loss, Tokens


def progress(*, head: str = 'progress', channel: str = 'task') -> Loss:
  """Squared error of a sum of contributions (arXiv:2505.20732).

    l = mean over episodes of (sum over the steps of c_s - R)^2,   c_s: the head's value at the last trained token of the step

  `prepare` finds the loss of the minibatch and its exact slope by each c; with the average `seq_mean` both are what they should be. Where
  paths share steps, or a step has a row of its own, the learner needs `unit='path'`: a path is whole, or its sum lacks something. An episode
  without a verdict, and one whose last step is not in the minibatch, is not fitted.

  Args:
    head: the head c; a linear one reads hidden states (the release: the logits of the last token).
    channel: reward channel of R.

  Source: WangHanLinHenry/SPA-RL-Agent@ed200874 `prm/train_our_progress_model.py::prm_model`.

  Proof: twin.
  """
  def prepare(state, out, batch, adv, key):
    del adv, key
    n, t = batch.nodes, batch.tokens
    last = along.last_token(batch)
    ret, on = tree.returns(n, channel)
    on &= masked.node_sum(jnp.ones_like(t.logp), batch) > 0
    total = tree.fold_down(masked.node_sum(jnp.where(last, out.value[head], 0.), batch), n.parent)
    miss, count = jnp.where(on, total - ret, 0.), jnp.maximum(jnp.sum(on, dtype=jnp.float32), 1)
    slope = tree.above(tree.fold_up(2 * miss / count, n.parent), t.node, 0.)
    return state, (jnp.sum(jnp.square(miss)) / count, jnp.where(last, slope, 0.) * shares(t))

  def term(out, batch, adv, stats):
    del adv
    loss, slope = stats
    c = out.value[head]
    return jnp.where(batch.tokens.mask, loss + slope * (c - jax.lax.stop_gradient(c)), 0.)
  return Loss(term, prepare, heads=(head,))


def shares(tokens: Tokens) -> Array:
  """`[R, T]` 1 / what a kept token counts in the average `seq_mean`: the slope of a loss times this is the slope of its term."""
  own = jnp.maximum(masked.segment_sum(jnp.ones_like(tokens.logp), tokens, over='owned'), 1)
  return own * jnp.sum(jnp.where(tokens.mask, 1 / own, 0.))
