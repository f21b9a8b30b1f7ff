"""ARES: how much a question should be explored depends on how hard it is, and is paid or fined accordingly."""

import jax
import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.columns import with_reward
from rlx.types import Array, Batch

writes = ('reward/ares',)


def ares(batch: Batch, *, channel: str = 'task', mode: str = 'released', role: str = 'trigger', entropy: str = 'entropy',
         window: int = 4, quantile: float = 0.95, theta: float | None = None, target: tuple | None = None,
         alpha: float = 0.5, right: float = 1.0, eps: float = 1e-6, into: str = 'ares') -> Batch:
  """The hierarchical entropy reward of ARES (arXiv:2510.08457): the reward, and E on the last step of each episode.

    N: trigger tokens of the episode whose next `window` tokens have a mean entropy of theta or more; fewer do not count
    bucket: easy, medium, hard: prompts with 2/3, 1/3, fewer of their episodes right;   d = N - n*, n* of the bucket

  released, x+ the positive part, n* = round(mean N), three numbers for the three buckets:

    m = max(1, n* (.15 .25 .35)),   kappa = (2 3 4),   temp = (2 2.5 3),   cap = alpha (1 1 1.2)
    sat(x) = cap sigmoid(x / temp)
    pen(x) = cap (x^2 / 2 kappa if x <= kappa else x - kappa / 2) / (m + kappa)
    right, easy, medium: E = -min(cap, pen((d - m)+)),   -min(cap, pen((|d| - m)+))
    right, hard:         E = sat(d + m) if d >= -m else -min(cap, pen(-d - m) / 2)
    wrong:               E = sat((d - m)+) (.6 .8 1)

  paper:

    E = -lambda g(d) where wrong, else 0;   lambda = max(0, (mean N - n*) / (var N + eps)),   g = (d+ |d| (-d)+)

  theta: released: the median over responses of the `quantile` of the window means; paper: the mean over responses of the
  `quantile` of their token entropies, which a window has to exceed.

  Args:
    batch: reads `reward[channel]`, `role[role]` (tokens that announce a turn of thought, such as 'wait', 'but', 'let') and
      `stream[entropy]`, both `[R, T]`.
    channel: reward channel of the answer.
    mode: 'released' or 'paper'; they differ in kind: one pays wrong answers for exploring, the other fines them.
    role: block of the triggers.
    entropy: stream of the entropies.
    window: tokens behind a trigger, all of the same step (ours, where an episode has several).
    quantile: of theta.
    theta: a fixed threshold; None: from the batch. The release keeps a moving average of it (.99).
    target: n* of the easy, the medium and the hard bucket; None: from the batch. In the paper's form lambda is then 0: it
      wants those of batches before.
    alpha: height of E; the release lets it move, which its rounding alone does.
    right: an episode is right whose return is at least this.
    eps: added to the variance.
    into: the channel that is written.

  Returns:
    The batch. `into` is judged where `channel` is. A response is a sequence of the rows whose steps are all credited:
    with rows 'paths' an episode.

  Raises:
    ValueError: no such mode.

  Source: shawn0728/ARES@146620e3 `examples/reward_function/aepo.py`, `verl/workers/rollout/vllm_rollout_spmd.py`,
  `verl/trainer/ray_trainer.py`. Known deviations: entropies are those of the whole vocabulary, not of the ten best
  tokens; triggers are the tokens that were drawn, not the likeliest ones; of the last tokens, which no window follows,
  the release makes averages that enter its quantile; its mean N of a bucket is over prompts.

  Proof: twin; guess: what the paper's form counts, whether its variance is the population's, and n* (ours: `target`).
  """
  if mode not in ('released', 'paper'):
    raise ValueError(f"mode is 'released' or 'paper', not {mode!r}.")
  n, t = batch.nodes, batch.tokens
  ret, on = tree.returns(n, channel)
  h, whole = _behind(t.stream[entropy], batch, window)
  if theta is None:
    used, where = (h, whole) if mode == 'released' else (t.stream[entropy], t.sampled)
    each, count = _quantiles(used, where, batch, on, quantile)
    some = count > 0
    theta = _median(each, some) if mode == 'released' else jnp.sum(each) / jnp.maximum(jnp.sum(some, dtype=jnp.float32), 1)
  high = whole & t.mask & t.role[role] & ((h >= theta) if mode == 'released' else (h > theta))
  count = tree.fold_down(masked.node_sum(high.astype(jnp.float32), batch), n.parent)

  good = (ret >= right).astype(jnp.float32)
  of = groups.group_stats(good, n.group, on)
  hits = jnp.round(of.mean * of.count)
  bucket = jnp.where(3 * hits >= 2 * of.count, 0, jnp.where(3 * hits >= of.count, 1, 2))
  member = (bucket[:, None] == jnp.arange(3)[None, :]) & on[:, None]
  mean = lambda x: jnp.sum(jnp.where(member, x[:, None], 0.), 0) / jnp.maximum(jnp.sum(member, 0, dtype=jnp.float32), 1)
  usual = mean(count)
  goal = jnp.asarray(target, jnp.float32) if target is not None else jnp.round(usual) if mode == 'released' else usual
  d = count - goal[bucket]
  positive = lambda x: jnp.maximum(x, 0.)
  pick = lambda *x: jnp.asarray(x, jnp.float32)[bucket]

  if mode == 'paper':
    strength = positive((usual - goal) / (mean(jnp.square(count - usual[bucket])) + eps))[bucket]
    off = jnp.select([bucket == 0, bucket == 1], [positive(d), jnp.abs(d)], positive(-d))
    extra = jnp.where(good > 0, 0., -strength * off)
  else:
    kappa, temp, cap = pick(2., 3., 4.), pick(2., 2.5, 3.), alpha * pick(1., 1., 1.2)
    m = jnp.maximum(1., pick(.15, .25, .35) * jnp.maximum(goal[bucket], 1.))
    huber = lambda x: jnp.where(x <= kappa, x * x / (2 * kappa), x - kappa / 2)
    fine = lambda x, share: -jnp.minimum(cap, share * huber(positive(x)) / (m + kappa) * cap)
    sat = lambda x: jax.nn.sigmoid(x / temp) * cap
    hard = jnp.where(d >= -m, sat(d + m), fine(-d - m, .5))
    extra = jnp.where(good > 0, jnp.select([bucket == 0, bucket == 1], [fine(d - m, 1.), fine(jnp.abs(d) - m, 1.)], hard),
                      sat(positive(d - m)) * pick(.6, .8, 1.))
  return with_reward(batch, into, n.reward[channel] + jnp.where(on, extra, 0.), channel)


def _behind(x: Array, batch: Batch, window: int) -> tuple[Array, Array]:
  """(mean of x over the `window` tokens behind each token, whether so many of its step follow at once), `[R, T]` each."""
  t = batch.tokens
  total, whole = jnp.zeros_like(x), t.sampled
  for k in range(1, window + 1):
    later = lambda v, fill, k=k: jnp.pad(v[:, k:], ((0, 0), (0, k)), constant_values=fill)[:, :v.shape[1]]
    whole &= later(t.sampled, False) & (later(t.node, -1) == t.node) & (later(t.segment, -1) == t.segment)
    total += later(x, 0)
  return total / window, whole


def _quantiles(x: Array, where: Array, batch: Batch, on: Array, q) -> tuple[Array, Array]:
  """`[R * T]` by sequence: (the quantile of x over its tokens in `where`, linear between two; how many these are).

  Only sequences count that have an episode of `on` at or below each of their steps.
  """
  n, t = batch.nodes, batch.tokens
  rows, width = t.node.shape
  size = rows * width
  live = tree.through(on, n.parent)
  place = jnp.arange(rows, dtype=jnp.int32)[:, None] * width + t.segment
  place = jnp.where(t.segment >= 0, place, size)
  whole = jax.ops.segment_min(tree.above(live, t.node, True).astype(jnp.int32).ravel(), place.ravel(), size) > 0
  use = where & (place < size) & whole[jnp.minimum(place, size - 1)]
  key = jnp.where(use, place, size).ravel()
  order = jnp.lexsort((x.ravel(), key))
  count = jax.ops.segment_sum(use.astype(jnp.int32).ravel(), key, size)
  first = jnp.cumsum(count) - count
  at = q * jnp.maximum(count - 1, 0).astype(jnp.float32)
  lower = jnp.floor(at)
  value = lambda k: x.ravel()[order[jnp.minimum(first + k.astype(jnp.int32), size - 1)]]
  a, b = value(lower), value(jnp.ceil(at))
  return jnp.where(count > 0, a + (at - lower) * (b - a), 0.), count


def _median(x: Array, where: Array) -> Array:
  """The median of x over `where`, the mean of two middle ones; 0 where there is none."""
  count = jnp.sum(where, dtype=jnp.int32)
  x = jnp.sort(jnp.where(where, x, jnp.inf))
  middle = lambda k: x[jnp.clip(k, 0, x.shape[0] - 1)]
  return jnp.where(count > 0, (middle((count - 1) // 2) + middle(count // 2)) / 2, 0.)
