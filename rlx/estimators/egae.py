"""EGAE of T-PPO: advantages of answers that are not finished, targets of those that are."""

import dataclasses

import jax.numpy as jnp

from rlx import tree
from rlx.estimators.gae import gae
from rlx.types import Advantages, Batch


def egae(batch: Batch, *, channel: str = 'task', head: str = 'value', gamma: float = 1.0, lam: float = 0.95,
         whiten: bool = False) -> Advantages:
  """Extended GAE over truncated answers, the critic trained apart (arXiv:2506.15050).

    A_t = sum_k (gamma lam)^k d_{t+k},   d_t = r_t + gamma V_{t+1} - V_t;   where the answer was cut off, V of its last token goes on
    target_t = sum_k gamma^k r_{t+k} of an answer that is done;   V_t on one that was cut off

  gamma and lam are ours, the paper's were not found. That an answer goes on in the next window is the sampler's affair: here a window
  is an episode with end 2.

  Args:
    batch: as for `gae`.
    channel: reward channel.
    head: name of the value head or of the critic's.
    gamma, lam: per token.
    whiten: as in `gae` (ours: it moves the last tokens of a window off 0).

  Returns:
    adv `[R, T]`, that of `gae`; target {head: `[R, T]`}. Where a path branches, the target is the mean over the next steps that a
    finished episode runs through. The paper's critic does not see what was cut off: give its track the selector `finished`.

  Proof: twin.
  """
  n, t = batch.nodes, batch.tokens
  adv = gae(batch, channel=channel, head=head, gamma=gamma, lam=lam, whiten=whiten).adv
  done = dataclasses.replace(batch, nodes=dataclasses.replace(n, end=jnp.where(n.end == 2, jnp.full_like(n.end, 3), n.end)))
  target = gae(done, channel=channel, head=head, gamma=gamma, lam=1., whiten=False).target[head]
  on = lambda nodes: tree.above(tree.through(tree.ended(nodes), n.parent), t.node, False)
  rest = t.mask & on(n) & ~on(done.nodes)
  return Advantages(adv=adv, target={head: jnp.where(rest, t.stream[f'value/{head}'], target)})
