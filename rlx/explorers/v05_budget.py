"""Few rollouts, and more of them where they contradict what was expected: the budget of V_0.5."""

from collections.abc import Mapping

import numpy as np

from rlx import walk
from rlx.types import Expand, Explorer


def v05_budget(*, cost: float, width: int = 4, most: int = 16, prior: float = .5, key: str = 'prior',
               channel: str = 'task') -> Explorer:
  """`width` rollouts, then one more for as long as it is worth its cost (arXiv:2603.10848).

    one more while  E(n) - E(n + 1) > cost,   E(k) = s D / (s + D),   s = var / k,   D = max(0, (m - v)^2 - var / n)

  E is the squared error of the baseline of estimator `v05` with k rollouts; m, var: mean and variance (ddof 1, or v (1 - v)
  where all returns are equal) of the n there are, v: the prior. Looking one step ahead is the paper's; E, and what a rollout
  costs, are ours.

  Args:
    cost: of a rollout, in squared reward. The paper's is not known.
    width: rollouts to begin with (or as many as the task itself asks for).
    most: rollouts of a prompt.
    prior: v where the task has none.
    key: where the task has its own, a field or a key of its data.
    channel: reward channel of the returns, known as each episode ends. Failed episodes do not count.

  Proof: guess: the error, and the cost.
  """
  def init(task):
    return 0, width if task.width is None else task.width

  def expand(state, view, seed):
    del seed
    asked, first = state
    if not asked:
      return (first, first), [Expand(width=first)] if first else []
    if view.running or asked >= most or gain(*known(view)) <= cost:
      return state, []
    return (asked + 1, first), [Expand()]

  def known(view):
    data = view.task.data
    own = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
    ends = [k for k, n in enumerate(view.nodes) if n.end in (1, 2)]
    paid = [[view.nodes[i].reward.get(channel) for i in walk.path(view.nodes, k)] for k in ends]
    return [sum(p) for p in paid if None not in p], float(prior if own is None else own)

  return Explorer(init, expand)


def gain(returns: list, v: float) -> float:
  """What one more rollout takes off the baseline's squared error; 0 where nothing is known."""
  n = len(returns)
  if not n:
    return 0.
  m, equal = float(np.mean(returns)), len(set(returns)) == 1
  var = max(v * (1 - v), 0.) if equal else float(np.var(returns, ddof=1))
  bias = max((m - v)**2 - var / n, 0.)
  error = lambda s: s * bias / (s + bias) if s + bias else 0.
  return error(var / n) - error(var / (n + 1))
