"""HiPER: one advantage for deciding to change the plan, one for the plan, one for the action that carries it out."""

import jax
import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.types import Advantages, Array, Batch


def hiper(batch: Batch, *, channel: str = 'task', low: str = 'low', high: str = 'high', term: str = 'term',
          gamma: float = 1.0, lam: float = 1.0, lam_segment: float = 0.95, switch: str = 'released', norm: bool = True,
          ddof: int = 0, eps: float = 1e-8, bootstrap: bool = False) -> Advantages:
  """Hierarchical advantage estimation, HAE (arXiv:2602.16165).

    segment: a first step, or one that switches, and the steps up to the next of these
    G_t    = r_t + gamma G_{t+1},   where t + 1 opens a segment r_t + gamma V^hi_{t+1}
    action:  A_t = r_t + gamma V_{t+1} - V^lo_t + gamma lam A_{t+1},   V = V^lo inside the segment; else V^hi, and no A_{t+1}
    plan:    A_k = G_k - V^hi_k + gamma^d lam_segment A_{k+1},   k: first steps of segments, d: length of the segment
    switch:  A_t = G_t - V^term_t

  Each is given to the tokens of its block, tags included (the plan's only where a segment opens); a token of two blocks has
  the sum, one of none has 0. A step without an action block is an action as a whole. r_t is paid to the step, 0 follows the
  last one, and where a path branches what follows is the mean over next steps.

  Args:
    batch: reads `reward[channel]`, `label['switch']` (above 0: a new plan begins), `role['switch']`, `role['plan']`,
      `role['action']`, and each V from `value[head]` where there is one, else from `stream['value/<head>']` `[R, T]`:
      V^lo at the first token of the action, V^hi at the first of the step, V^term at the first of the switch block.
    channel: reward channel.
    low, high, term: names of the heads V^lo, V^hi and V^term.
    gamma: per step.
    lam: of the actions.
    lam_segment: of the plans.
    switch: 'released', as above, or 'paper': A_t = (q_t - b_t)(V^hi_t - V^lo_t), q_t whether the step switched and b_t
      the probability that it would: of the switch block, or 1 minus that of the block where it did not. Ours there: V^lo
      under the plan before is read where V^lo of the step is, and a first step, which has no plan to leave, gets 0.
      V^term is not read.
    norm: each of the three is normalised over the steps of the batch that have its block.
    ddof: of the deviations.
    eps: added to the deviations.
    bootstrap: a path that was cut off (end 2) goes on with V^lo of its last step, and G with V^hi of its last segment.

  Returns:
    adv `[R, T]`; targets {low: A + V^lo, high: A + V^hi, term: G} (the last not with 'paper'): `[N]` where V was a value
    of the step, else `[R, T]` at the token V was read from. Where a head has nothing to learn (V^hi inside a segment,
    other tokens) the target is the prediction. All 0 where no ended episode runs through.

  Raises:
    ValueError: no such `switch`.

  Source: JonP07/HiPER-agent@9d3c118b `hiper_hae/core_hae.py::compute_hae_advantage`.

  Proof: twin; guess: how the paper's form of the switch reads b_t and V^lo under the plan before.
  """
  if switch not in ('released', 'paper'):
    raise ValueError(f"switch is 'released' or 'paper', not {switch!r}.")
  n, t = batch.nodes, batch.tokens
  r, live = n.reward[channel], tree.through(tree.returns(n, channel)[1], n.parent)
  start = (n.label['switch'] > 0) | (n.parent < 0)
  block = {k: t.mask & t.role[k] for k in ('action', 'plan', 'switch')}
  some = lambda where: masked.node_sum(where.astype(jnp.float32), batch) > 0
  block['action'] |= masked.to_tokens(~some(block['action']), t)
  has = {k: some(x) for k, x in block.items()}
  lo, lo_at = _read(batch, low, block['action'])
  hi, hi_at = _read(batch, high, t.mask)

  step = gamma * tree.share(n.parent, live)
  inside = jnp.where(start, 0., step)
  jump = r + tree.below(step * jnp.where(start, hi, 0.), n.parent)     # the reward, and what the next segment is worth
  cut = jnp.where(n.end == 2, gamma, 0.) if bootstrap else jnp.zeros_like(r)
  opened = tree.fold_down(jnp.where(start, hi, 0.), n.parent, jnp.where(start, 0., 1.))    # V^hi of one's own segment
  act = tree.fold_up(jump + tree.below(inside * lo, n.parent) + cut * lo - lo, n.parent, lam * inside)
  ret = tree.fold_up(jump + cut * opened, n.parent, inside)
  over = tree.above(jnp.where(start, lam_segment, 1.), n.parent, 0.)
  plan = tree.fold_up(jnp.where(start, ret - hi, 0.), n.parent, step * over)

  def send(x, k, where):
    where &= live & has[k]
    if norm:
      x = groups.group_norm(x, jnp.zeros_like(n.group), where, std=True, ddof=ddof, eps=eps)
    return jnp.where(block[k] & masked.to_tokens(where, t), masked.to_tokens(x, t), 0.)

  def target(x, head, v, at, where):
    if at is None:
      return jnp.where(live, jnp.where(where, x, v), 0.)
    learnt = jnp.where(at & masked.to_tokens(where, t), masked.to_tokens(x, t), t.stream[f'value/{head}'])
    return jnp.where(masked.to_tokens(live, t), learnt, 0.)

  targets = {high: target(plan + hi, high, hi, hi_at, start), low: target(act + lo, low, lo, lo_at, live)}
  if switch == 'released':
    v, at = _read(batch, term, block['switch'])
    change = send(ret - v, 'switch', live)
    targets[term] = target(ret, term, v, at, has['switch'])
  else:
    said = jnp.exp(jnp.minimum(masked.node_sum(jnp.where(block['switch'], t.logp, 0.), batch), 0.))
    change = send(jnp.where(n.label['switch'] > 0, 1 - said, said - 1) * (hi - lo), 'switch', n.parent >= 0)
  return Advantages(adv=send(act, 'action', live) + send(plan, 'plan', start) + change, target=targets)


def _read(batch: Batch, head: str, where: Array) -> tuple[Array, Array | None]:
  """(V of each step, the tokens it was read from): at the first of `where`; the value of the step where there is one."""
  if head in batch.nodes.value:
    return batch.nodes.value[head], None
  t, size = batch.tokens, batch.nodes.parent.shape[0]
  place = jnp.broadcast_to(jnp.arange(t.node.shape[1], dtype=jnp.int32), t.node.shape)
  first = jax.ops.segment_min(place.ravel(), jnp.where(where, t.node, size).ravel(), size)
  at = where & (place == tree.above(first, t.node, -1))
  return masked.node_sum(jnp.where(at, t.stream[f'value/{head}'], 0.), batch), at
