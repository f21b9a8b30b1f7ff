"""OTC: a right answer is worth less the further its number of tool calls is from the fewest that were needed."""

import jax
import jax.numpy as jnp

from rlx import tree
from rlx.columns import with_reward
from rlx.types import Batch

writes = ('reward/otc',)


def otc(batch: Batch, *, channel: str = 'task', tool: str = 'tool', mode: str = 'grpo', alpha: float = 1.0, c: float = 1.0,
        into: str = 'otc') -> Batch:
  """Adds `reward[into]` on the last step of each episode, the tool-aware reward of OTC-PO (arXiv:2504.14870).

    r = alpha r_tool R for a right answer (R > 0), 0 for a wrong one
    'grpo':  r_tool = 1 if m = n = 0,  cos(m pi / (2 m + c)) if n = 0 < m,  else sin(f pi / (2 n)),  f = 2 n m / (m + n)
    'ppo':   r_tool = cos(m pi / (2 m + c))

  m: tool calls of the episode, n: the fewest among the right episodes of its prompt. The paper keeps n as a running minimum over epochs;
  here it is the batch's own. alpha and c are those of a port, the paper's were not seen.

  Args:
    batch: reads `reward[channel]` and `label[tool]`.
    channel: reward channel; R is the return.
    tool: label above 0 on steps that call a tool.
    mode: 'grpo' or 'ppo'.
    alpha: weight.
    c: softens the price of a call.
    into: the channel written; an episode without a verdict has none there.

  Raises:
    ValueError: no such mode.

  Proof: twin.
  """
  if mode not in ('grpo', 'ppo'):
    raise ValueError(f"mode is 'grpo' or 'ppo', not {mode!r}.")
  nodes = batch.nodes
  ret, on = tree.returns(nodes, channel)
  right = on & (ret > 0)
  m = tree.fold_down((nodes.label[tool] > 0).astype(jnp.float32), nodes.parent)
  paid = jnp.cos(m * jnp.pi / jnp.where(m > 0, 2 * m + c, 1.))
  if mode == 'grpo':
    n = jax.ops.segment_min(jnp.where(right, m, jnp.inf), nodes.group, m.shape[0])[nodes.group]
    n = jnp.where(right, n, 0.)
    paid = jnp.where(n > 0, jnp.sin(jnp.pi * m / jnp.where(n > 0, m + n, 1.)), paid)      # f / (2 n) = m / (m + n)
  return with_reward(batch, into, jnp.where(right, alpha * paid * ret, 0.), channel)
