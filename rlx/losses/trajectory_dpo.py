"""A process reward model from outcomes: episodes that succeeded against those that did not."""

import jax
import jax.numpy as jnp

from rlx import masked, tree
from rlx.estimators.riskpo import numbered
from rlx.losses.progress import shares
from rlx.types import Loss


def trajectory_dpo(*, channel: str = 'task', ref: str = 'logp', beta: float = 0.05, above: float = 0.0) -> Loss:
  """DPO on whole episodes, every success of a prompt against every failure of it (arXiv:2509.19199).

    l = mean over pairs of -log sigmoid(Q_success - Q_failure)
    Q = beta mean over the steps of an episode of sum over their tokens of (logp - ref)

  `prepare` finds Q, the loss of the minibatch and its exact slope by each logp; with the average `seq_mean` both are what they should be. A
  pair needs both of its episodes, so set the learner's `unit='group'`. The pairs of a minibatch count alike, prompts without both
  outcomes have none; without any the loss is 0.

  Args:
    channel: reward channel of the outcome.
    ref: 'logp', the behaviour (released where no reference is given), or a stream with a frozen model's log-probabilities.
    beta: of the implicit reward.
    above: an episode succeeded if its return is above this.

  Source: Tongyi-ConvAI/Qwen-Character@1de87a22 `CharacterRL-iStar/istar/rm_utils.py::compute_eto_loss_rm`. Its caller detaches Q before the
  loss, so its model never learns; here it does.

  Proof: twin.
  """
  def prepare(state, out, batch, adv, key):
    del adv, key
    n, t = batch.nodes, batch.tokens
    size = n.parent.shape[0]
    step = masked.node_sum(jnp.ones_like(out.logp), batch) > 0
    ret, on = tree.returns(n, channel)
    on &= jax.ops.segment_max(step.astype(jnp.int32), n.group, size)[n.group] > 0      # prompts of this minibatch
    steps = jnp.maximum(tree.fold_down(step.astype(jnp.float32), n.parent), 1)
    q = masked.node_sum(out.logp - (t.logp if ref == 'logp' else t.stream[ref]), batch)
    q = beta * tree.fold_down(q, n.parent) / steps
    good, place = on & (ret > above), numbered(on, n.group)

    def against(j, sums):      # every episode meets the j-th one of its prompt
      loss, pairs, slope = sums
      of = lambda x: jax.ops.segment_sum(jnp.where(on & (place == j), x, 0.), n.group, size)[n.group]
      there, won, gap = of(jnp.ones(size)) > 0, of(good.astype(jnp.float32)) > 0, of(q) - q
      wins, loses = good & there & ~won, on & ~good & there & won
      slope += jnp.where(wins, -jax.nn.sigmoid(gap), jnp.where(loses, jax.nn.sigmoid(-gap), 0.))
      return loss + jnp.sum(jnp.where(wins, jax.nn.softplus(gap), 0.)), pairs + jnp.sum(wins, dtype=jnp.float32), slope
    most = jnp.max(place, where=on, initial=-1) + 1
    loss, pairs, slope = jax.lax.fori_loop(0, most, against, (jnp.float32(0), jnp.float32(0), jnp.zeros(size)))
    pairs = jnp.maximum(pairs, 1)
    slope = tree.fold_up(jnp.where(on, slope / pairs * beta / steps, 0.), n.parent)
    return state, (loss / pairs, masked.to_tokens(slope, t) * shares(t))

  def term(out, batch, adv, stats):
    del adv
    loss, slope = stats
    return jnp.where(batch.tokens.mask, loss + slope * (out.logp - jax.lax.stop_gradient(out.logp)), 0.)
  return Loss(term, prepare)
