"""SLATE's rollout: several candidates for one step, one of which goes on."""

import numpy as np

from rlx.types import Cut, Expand, Explorer


def slate(*, width: int = 5, eta: float = 0.7, channel: str = 'turn', budget: int = 4, eps: float = 1e-6) -> Explorer:
  """At each step `width` candidates behind one shared prefix (arXiv:2602.23440), until the chosen one ends or `budget` steps are made.

    P(j) ~ exp(A_j / eta),   A_j = (r_j - mean_k r) / (std_k r + eps)

  The candidates that are not chosen are cut off where they stand, so that they count as episodes. The paper forces an answer once the
  budget is spent; here the path is cut off.

  Args:
    width: k, candidates a step (or as many as the task itself asks for).
    eta: temperature of the choice; 0 or less: the best.
    channel: the step's reward, which must be there when the step is taken: the environment's. A candidate without one has 0.
    budget: B, steps of the chosen path.
    eps: added to the deviation (of a sample).

  Source: algoprog/SLATE@cbab1531 `slate/training/step_level_algos.py::reward_weighted_sampling`.
  """
  def init(task):
    return dict(width=width if task.width is None else task.width, tip=-1, depth=0, over=False)

  def expand(state, view, seed):
    if view.running or state['over']:
      return state, []
    new = [i for i, n in enumerate(view.nodes) if n.parent == state['tip']] if state['depth'] else []
    if state['depth']:
      if not (alive := [i for i in new if view.nodes[i].end != 3]):
        return {**state, 'over': True}, []
      tip = alive[_choose(np.array([view.nodes[i].reward.get(channel) or 0. for i in alive]), eta, eps, seed)]
      over = bool(view.nodes[tip].end) or state['depth'] == budget
      cut = [i for i in new if not view.nodes[i].end and (i != tip or over)]
      state = {**state, 'tip': tip, 'over': over}
      if over:
        return state, [Cut(cut)]
      return {**state, 'depth': state['depth'] + 1}, [Cut(cut), Expand(node=tip, width=state['width'], limit=1)]
    return {**state, 'depth': 1}, [Expand(width=state['width'], limit=1)]
  return Explorer(init, expand)


def _choose(r, eta, eps, seed):
  adv = (r - r.mean()) / (r.std(ddof=1) + eps) if len(r) > 1 else np.zeros(1)
  if eta <= 0:
    return int(adv.argmax())
  p = np.exp((adv - adv.max()) / eta)
  return int(np.random.default_rng(seed).choice(len(r), p=p / p.sum()))
