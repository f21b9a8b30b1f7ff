"""ProRAG: the outcome of an episode against its prompt, plus each step's own score against all tokens of its prompt."""

import jax
import jax.numpy as jnp

from rlx import groups, masked, tree
from rlx.estimators.grpo import grpo
from rlx.types import Array, Batch


def prorag(batch: Batch, *, channel: str = 'task', process: str = 'prm', beta: float = 0.3, ddof: int = 1,
           eps: float = 1e-4) -> Array:
  """The dual-granularity advantage of ProRAG ("Process-Supervised RL for RAG").

    A_s = (R - mean_g R) / (std_g R + eps) + beta (x_s - m_g) / sqrt(v_g + 1e-8)

  R: return of the episode, x_s: the score of a step, m_g and v_g: mean and population variance of x over the trained
  tokens of the prompt, each token having the score of its step, so that long steps count more.

  Args:
    batch: reads `reward[channel]`, summed along the path, and `reward[process]`, each step's own.
    channel: reward channel of the outcome.
    process: reward channel of the steps: the score of a process reward model, with what the step's form pays. A step
      without a verdict has no step part and is in no statistic of it; a step that several episodes share counts once.
    beta: weight of the step part; 0.3 in the script, 0.5 by default in the release.
    ddof: of the outcome's deviation.
    eps: added to the outcome's deviation.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. The step part is 0 where the prompt has one trained token, or equal
    scores.

  Source: lilinwz/ProRAG@c7a64110 `prorag/rl/trainer.py`.

  Proof: twin.
  """
  n = batch.nodes
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  tokens = masked.node_sum(jnp.ones_like(batch.tokens.logp), batch)
  x, where = n.reward[process], live & tree.judged(n, process) & (tokens > 0)
  total = lambda v: jax.ops.segment_sum(jnp.where(where, v, 0.), n.group, n.group.shape[0])[n.group]
  count = jnp.maximum(total(tokens), 1)
  x = x - groups.group_stats(x, n.group, where).mean      # equal scores deviate by exactly 0
  x = x - total(tokens * x) / count
  part = jnp.where(where, x * jax.lax.rsqrt(total(tokens * jnp.square(x)) / count + 1e-8), 0.)
  return grpo(batch, channel=channel, ddof=ddof, eps=eps) + beta * part
