"""SPA: what a step contributed, as a reward of its own."""

import jax.numpy as jnp

from rlx import along, masked
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/spa',)


def spa(batch: Batch, *, head: str = 'progress', grounding: str | None = 'format', alpha: float = 1.0, beta: float = 0.5,
        into: str = 'spa') -> Batch:
  """Adds `reward[into]`, the progress of each step and whether its action could be executed (arXiv:2505.20732).

    r_s = alpha c_s + beta g_s

  alpha and beta are ours: the released data script adds 0.5 for an action that could be executed. That script then writes the leave-one-out
  outcome over all c, and the trainer multiplies step t of S by S - t - 1; neither is done here.

  Args:
    batch: reads `stream['value/<head>']` at the last trained token of each step (transform `score`) and `reward[grounding]`.
    head: name of the progress head (loss `progress`).
    grounding: the channel g, 1 where the action could be executed, 0 elsewhere; None: no such part.
    alpha, beta: weights.
    into: the channel written; where g has no verdict, neither has it.

  Source: WangHanLinHenry/SPA-RL-Agent@ed200874 `prm/train_our_progress_model.py`, `prm/rl_data_org.py`,
  `ppo/step_ppotrainer.py::compute_rewards`.

  Proof: twin; guess: alpha and beta.
  """
  n = batch.nodes
  value = batch.tokens.stream[f'value/{head}']
  reward = alpha * masked.node_sum(jnp.where(along.last_token(batch), value, 0.), batch)
  if grounding is None:
    return with_reward(batch, into, reward)
  return with_reward(batch, into, reward + beta * n.reward[grounding], grounding)
