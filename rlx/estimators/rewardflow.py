"""RewardFlow: rewards flow back over the graph of states; a step is worth what it gains in its state's value."""

import jax
import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def rewardflow(batch: Batch, *, channel: str = 'task', gamma: float = 0.9, weight: float = 1., std: bool = True, ddof: int = 1,
               rounds: int = 1000, terminal: str = 'shared', discount: float = 0., eps: float = 1e-6) -> Array:
  """Advantages from values on the state graph of a prompt (arXiv:2603.18859).

    V(s) = max(R(s), gamma max over successors of V),   r_step = V(next state) - V(state)
    A = z(return of the episode, over all steps of the prompt) + weight z(G, over steps of the prompt in the same state)

  G = r_step + discount G', r_step alone as released. z(x) is (x - mean) / (deviation + eps), or x - mean without `std`; 0 in
  a pool of one.

  Args:
    batch: reads `reward[channel]`, `label['state']` and, for 'shared', `label['next']`.
    channel: reward channel.
    gamma: decay per edge; 0.9 in the scripts.
    weight: of the second part.
    std: divide by the deviations.
    ddof: 1 as released (torch's std).
    rounds: of the backup, which stops where nothing changes.
    terminal: what the last step of an episode leads to: see `step_gains`.
    discount: of the step rewards that follow (GiGPO's step returns).
    eps: added to the deviations.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. Return and G of a shared step are means over
    its episodes.

  Source: tmlr-group/RewardFlow@1cdead8e `rewardflow/core_rewardflow.py`: `apply_rewardflow_propagation`,
  `compute_rewardflow_outcome_advantage`; `propagation.py::propagate_reward_decay`.

  Proof: twin.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  z = lambda x, ids: groups.group_norm(x, ids, live, std=std, ddof=ddof, eps=eps)
  gain = step_gains(batch, on, channel=channel, gamma=gamma, rounds=rounds, terminal=terminal)
  count = tree.fold_up(jnp.where(on, 1., 0.), n.parent)
  gain = tree.fold_up(gain, n.parent, discount * count / jnp.maximum(tree.above(count, n.parent, 1.), 1.))
  return z(tree.leaf_mean(ret, on, n.parent), n.group) + weight * z(gain, groups.dense_ids(n.group, n.label['state']))


def step_gains(batch: Batch, on: Array, *, channel: str, gamma, rounds: int, terminal: str) -> Array:
  """What each step gains in value, V(next state) - V(state), on the graph of its prompt.

  Equal `label['state']` is one node of the graph; a step leads to the state of its next step. R(s) is the reward of the step
  that led to s, and 0 where an episode began there: the first that was seen, by the order of steps. Steps that stay in their
  state are taken out before, with their rewards.

  Args:
    batch: reads `reward[channel]`, `label['state']` and, for 'shared', `label['next']`.
    on: `[N]` bool, where the episodes ended that count.
    channel: reward channel.
    gamma: decay per edge.
    rounds: of the backup.
    terminal: 'shared': last observations are states, one where `label['next']` is equal; one that a step which goes on was
      shown too is that next step's state. 'own': each episode has one of its own. 'none': there is none, the last step keeps
      its reward, which never enters the graph. The release has 'none' for the longest episodes of a rollout, 'shared' for the
      others: beware of an observation that is the same for won and for lost.

  Returns:
    `[N]` f32, for a shared step the mean over its episodes; 0 where no episode of `on` runs through.
  """
  if terminal not in ('shared', 'own', 'none'):
    raise ValueError(f"terminal is 'shared', 'own' or 'none', not {terminal!r}.")
  n = batch.nodes
  reward, size = n.reward[channel], n.parent.shape[0]
  rows = jnp.arange(size, dtype=jnp.int32)
  count = tree.fold_up(jnp.where(on, 1., 0.), n.parent)
  follows = (count > 0) & (n.parent >= 0)
  state = groups.dense_ids(n.group, n.label['state'])          # in [0, N); terminal states stand in [N, 2N)
  goal = size + rows
  if terminal == 'shared':
    seen = groups.dense_ids(n.group, n.label['next'])
    known = jax.ops.segment_min(jnp.where(follows, rows, size), tree.above(seen, n.parent, size), size)[seen]
    goal = jnp.where(known < size, state[jnp.minimum(known, size - 1)], size + seen)

  source, target = jnp.concatenate([tree.above(state, n.parent, 0), state]), jnp.concatenate([state, goal])
  edge = jnp.concatenate([follows, on & (terminal != 'none')]) & (source != target)
  inner, last = edge[:size], edge[size:]
  entered = jnp.stack([inner | (tree.below(inner.astype(jnp.int32), n.parent) > 0) | last, last], 1).ravel()
  paid = jnp.stack([tree.above(reward, n.parent, 0.), reward], 1).ravel()       # in order of time, with `entered`
  place = jnp.stack([state, goal], 1).ravel()
  first = jax.ops.segment_min(jnp.where(entered, jnp.arange(2 * size), 2 * size), place, 2 * size)
  value = jnp.where(first < 2 * size, paid[jnp.minimum(first, 2 * size - 1)], 0.)

  def back(s):
    old, _, k = s
    new = jnp.maximum(old, jax.ops.segment_max(jnp.where(edge, gamma * old[target], -jnp.inf), source, 2 * size))
    return new, jnp.any(new > old), k + 1

  value = jax.lax.while_loop(lambda s: s[1] & (s[2] < rounds), back, (value, jnp.bool_(True), jnp.int32(0)))[0]
  here = value[state]
  least = jax.ops.segment_min(jnp.where(follows, here, jnp.inf), tree.above(rows, n.parent, size), size)
  least = jnp.where(jnp.isfinite(least), least, 0.)             # subtracted first: the mean of equal values is exact
  over = jnp.where(follows, count * (here - tree.above(least, n.parent, 0.)), 0.)
  gain = least + tree.below(over, n.parent) / jnp.maximum(count, 1) - here
  gain = jnp.where(on, reward if terminal == 'none' else value[goal] - here, gain)
  return jnp.where(count > 0, gain, 0.)
