"""StepORLM's weighted DPO: a solver's verdict first, then the share of steps that a process reward model calls right."""

import jax
import jax.numpy as jnp

from rlx import masked, tree
from rlx.estimators.riskpo import numbered
from rlx.losses.progress import shares
from rlx.types import Loss


def step_orlm(*, channel: str = 'task', prm: str = 'prm', beta: float = 0.1, ref: str = '', above: float = 0.0,
              correct: float = 0.5) -> Loss:
  """Weighted preference among the episodes of a prompt (StepORLM, arXiv:2509.22558).

    l = mean over pairs of -w log sigmoid(Q_better - Q_worse),   Q = beta sum over an episode's tokens of (logp - ref)
    one right, one wrong:   the right one is better, w = 1
    both right or both wrong:   the one with the higher share s of correct steps is better, w = |s - s'|

  Pairs with w = 0 are dropped and do not count in the mean, which is over the minibatch (ours). The digest that this was written from
  has no reference, which may be its shorthand: `ref` adds one. `prepare` finds the loss of the minibatch and its exact slope by each
  logp; with the average `seq_mean` both are what they should be. A pair needs both of its episodes: set the learner's `unit='group'`.

  Args:
    channel: reward channel of the solver.
    prm: reward channel of the process reward model, a verdict a step. An episode with a step that has none is compared by the solver
      alone.
    beta: not published.
    ref: '' for none, 'logp' for the behaviour, or a stream with a frozen model's log-probabilities.
    above: an episode is right if its return is above this.
    correct: a step is correct if its verdict is above this.

  Proof: guess: the mean over pairs, and whether there is a reference.
  """
  def prepare(state, out, batch, adv, key):
    del adv, key
    n, t = batch.nodes, batch.tokens
    size = n.parent.shape[0]
    ret, on = tree.returns(n, channel)
    here = masked.node_sum(jnp.ones_like(out.logp), batch) > 0
    on &= jax.ops.segment_max(here.astype(jnp.int32), n.group, size)[n.group] > 0      # prompts of this minibatch
    before = jnp.zeros_like(t.logp) if not ref else t.logp if ref == 'logp' else t.stream[ref]
    q = beta * tree.fold_down(masked.node_sum(out.logp - before, batch), n.parent)
    whole = tree.returns(n, prm)[1]
    mean = lambda x: tree.fold_down(x.astype(jnp.float32), n.parent) / tree.fold_down(jnp.ones(size), n.parent)
    good, share, place = on & (ret > above), mean(n.reward[prm] > correct), numbered(on, n.group)

    def against(j, sums):      # every episode meets the j-th one of its prompt
      loss, pairs, slope = sums
      of = lambda x: jax.ops.segment_sum(jnp.where(on & (place == j), x.astype(jnp.float32), 0.), n.group, size)[n.group]
      there, won, gap = of(jnp.ones(size)) > 0, of(good) > 0, of(q) - q
      lead = jnp.where(whole & (of(whole) > 0), share - of(share), 0.)
      lead = jnp.where(good == won, lead, jnp.where(good, 1., -1.))
      weight = jnp.where(on & there, jnp.abs(lead), 0.)
      slope += weight * jnp.where(lead > 0, -jax.nn.sigmoid(gap), jax.nn.sigmoid(-gap))
      wins = jnp.where(lead > 0, weight, 0.)
      return loss + jnp.sum(wins * jax.nn.softplus(gap)), pairs + jnp.sum(wins > 0, dtype=jnp.float32), slope
    most = jnp.max(place, where=on, initial=-1) + 1
    loss, pairs, slope = jax.lax.fori_loop(0, most, against, (jnp.float32(0), jnp.float32(0), jnp.zeros(size)))
    pairs = jnp.maximum(pairs, 1)
    slope = tree.fold_up(slope / pairs * beta, n.parent)
    return state, (loss / pairs, masked.to_tokens(slope, t) * shares(t))

  def term(out, batch, adv, stats):
    del adv
    loss, slope = stats
    return jnp.where(batch.tokens.mask, loss + slope * (out.logp - jax.lax.stop_gradient(out.logp)), 0.)
  return Loss(term, prepare)
