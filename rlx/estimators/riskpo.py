"""RiskPO: bundles of questions are paid by where their summed score lies in its distribution, the low end most."""

import jax
import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch, Stateful

needs = ('chance',)   # which prompts share a bundle depends on their order in the batch
CREDITS = ('sum_mean', 'std', 'score', 'uniform')
LEVELS = tuple(k / 20 for k in range(1, 20))


def riskpo(*, channel: str = 'task', bundle: int = 5, low: float = 0.2, high: float = 0.8, weight: float = 1.5,
           credit: str = 'sum_mean', natural: bool = False, form: str = 'released', quantile_rate: float = 0.1,
           eps: float = 1e-6) -> Stateful:
  """Mixed value-at-risk of bundles of questions (arXiv:2510.00911).

    X_j = sum over the questions k of a bundle of s_kj       paper j takes response j of each
    range g = (X - q_low)+ - (X - q_high)+  [+ q_low - q_high with `natural`],   tail c = -(q_low - X)+
    'released':  A = (weight c / low + g / (high - low)) / (weight + 1) / (std_bundle X + eps),   then `credit` to each response
    'paper':     A = (1 + weight) c + g with `natural`, the same for each response of the paper

  q tracks quantiles of X at the levels .05, .1 ... .95: those of the first batch, then q += quantile_rate (level - share of X below q)
  after each batch; a batch is judged by what was there before it, the nearest level serves. With `natural` A is never above 0.

  Known deviations: bundles are prompts that follow one another in the batch, not drawn anew for each question as in the paper; X of a
  last bundle that is not full is scaled to a full one; where all papers of a bundle score the same, the release divides by 1e-6, here the
  deviation counts as 1, as for a single paper. The paper takes a ratio of whole sequences, which is the loss's affair.

  Args:
    channel: reward channel; scores between 0 and 1.
    bundle: questions a bundle.
    low, high: levels of the quantiles; high is 0.9 on easy data.
    weight: of the tail (the paper's value is not known).
    credit: 'released': 'sum_mean' (s - mean s of its question) / sum of these over the paper, equal shares where that sum is 0; 'std' divided by
      the deviation of its question's scores; 'score' times 1.5 if wrong (not above 0), 0.5 if right; 'uniform'.
    natural: the range part's own baseline (README and MATH script: yes; DAPO-math script: no).
    form: 'released' or 'paper'.
    quantile_rate: of the tracker.
    eps: added to denominators.

  Returns:
    A `Stateful` whose `update(state, batch)` gives `[N]` f32; 0 where no ended episode runs through. A bundle has as many papers as its
    prompt with the fewest episodes; a prompt with one is in none (it would leave the others of its bundle a single paper). A response
    that is in no paper gets 0; a shared step has the mean over its responses.

  Raises:
    ValueError: no such credit or form, a bundle below 1.

  Source: RTkenny/RiskPO@65ec40c9 `core_algos.py::compute_grpo_bundle_rvar_outcome_advantage_quantile_tracking`, `ray_trainer.py`.

  Proof: twin; guess: in 'paper', the weight; in both, a last bundle that is not full.
  """
  if credit not in CREDITS:
    raise ValueError(f'credit is one of {CREDITS}, not {credit!r}.')
  if form not in ('released', 'paper'):
    raise ValueError(f"form is 'released' or 'paper', not {form!r}.")
  if bundle < 1:
    raise ValueError(f'a bundle has at least 1 question, not {bundle}.')

  def update(state, batch):
    n = batch.nodes
    ret, on = tree.returns(n, channel)
    used, paper, of, questions = _papers(on, n.group, bundle)
    x = jax.ops.segment_sum(jnp.where(used, ret, 0.), paper, ret.shape[0])[paper] * bundle / questions
    one = used & (paper == jnp.arange(paper.shape[0], dtype=paper.dtype))
    fresh, levels = _quantiles(x, one), jnp.asarray(LEVELS, jnp.float32)
    q = jnp.where(state['seen'], state['q'], fresh)
    q_low, q_high = (q[jnp.argmin(jnp.abs(levels - level))] for level in (low, high))
    ranged = jnp.maximum(x - q_low, 0) - jnp.maximum(x - q_high, 0)
    tail = -jnp.maximum(q_low - x, 0)
    if form == 'paper':
      adv = (1 + weight) * tail + ranged + q_low - q_high
    else:
      ranged = ranged + (q_low - q_high if natural else 0.)
      adv = (weight * tail / (low + eps) + ranged / (high - low + eps)) / (weight + 1)
      std = groups.group_stats(x, of, one).std(1)
      adv = adv / (jnp.where(std > 1e-3, std, 1.) + eps) * _shares(credit, ret, on, used, paper, n.group, questions)
    below = jnp.sum((x[:, None] < q[None]) & one[:, None], axis=0, dtype=jnp.float32) / jnp.maximum(jnp.sum(one, dtype=jnp.float32), 1)
    moved = jnp.where(state['seen'], q + quantile_rate * (levels - below), fresh)
    some = jnp.any(one)
    state = dict(q=jnp.where(some, moved, state['q']), seen=state['seen'] | some)
    return state, tree.leaf_mean(jnp.where(used, adv, 0.), on, n.parent)

  return Stateful(lambda: dict(q=jnp.zeros(len(LEVELS)), seen=jnp.zeros((), bool)), update)


def numbered(on: Array, group: Array) -> Array:
  """`[N]` i32: which episode of its prompt each of `on` is, from 0; anything elsewhere. Groups are contiguous."""
  one = on.astype(jnp.int32)
  before = jnp.cumsum(one) - one
  return before - jax.ops.segment_min(before, group, on.shape[0])[group]


def _papers(on, group, bundle):
  """On each step: in a paper, id of the paper, of the bundle, questions of the bundle. Prompts with fewer than two episodes are in none."""
  size = on.shape[0]
  count = jax.ops.segment_sum(on.astype(jnp.int32), group, size)
  has = count > 1
  of_group = jnp.maximum(jnp.cumsum(has.astype(jnp.int32)) - 1, 0) // bundle
  fewest = jax.ops.segment_min(jnp.where(has, count, size), of_group, size)
  questions = jax.ops.segment_sum(has.astype(jnp.float32), of_group, size)
  of, place = of_group[group], numbered(on, group)
  used = on & has[group] & (place < fewest[of])
  paper = groups.dense_ids(jnp.where(used, of, -1), jnp.where(used, place, -1))
  return used, paper, of, jnp.maximum(questions, 1)[of]


def _quantiles(x, where):
  """`[19]` quantiles of x over `where`, linear between two values; 0 where there is none."""
  last = jnp.maximum(jnp.sum(where, dtype=jnp.int32) - 1, 0)
  x = jnp.sort(jnp.where(where, x, jnp.inf))
  at = jnp.asarray(LEVELS, jnp.float32) * last.astype(jnp.float32)
  lower = jnp.floor(at)
  a, b = (jnp.where(jnp.any(where), x[i], 0.) for i in (lower.astype(jnp.int32), jnp.minimum(lower.astype(jnp.int32) + 1, last)))
  return a + (b - a) * (at - lower)


def _shares(credit, ret, on, used, paper, group, questions):
  """What of its paper's advantage a response gets."""
  s = groups.group_stats(ret, group, on)
  if credit == 'uniform':
    return jnp.ones_like(ret)
  if credit == 'score':
    return jnp.where(ret > 0, .5, 1.5)
  if credit == 'std':
    return 1 / jnp.where(s.std(1) > 1e-3, s.std(1), 1.)
  total = jax.ops.segment_sum(jnp.where(used, ret - s.mean, 0.), paper, ret.shape[0])[paper]
  return jnp.where(jnp.abs(total) > 1e-6, (ret - s.mean) / jnp.where(jnp.abs(total) > 1e-6, total, 1.), 1 / questions)
