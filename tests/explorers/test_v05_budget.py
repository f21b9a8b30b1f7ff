"""The budget of V_0.5 (arXiv:2603.10848): the worth of one more rollout by hand, and how a prompt grows."""

import numpy as np
import pytest

from rlx.explorers.v05_budget import gain, v05_budget
from rlx.types import Expand, Node, Task, View


@pytest.mark.parametrize('returns, v, worth', [
    # the prior is within the noise: the baseline is the prior, nothing to be learnt
    ([1, 0, 0, 1], .4, 0.),
    # s = 1/12, D = .16 - 1/12 = .0767: E(4) = .0399; s = 1/15: E(5) = .0357
    ([1, 0, 0, 1], .1, .0042),
    # all failed against .8: s = .16/4 = .04, D = .6: .0375; s = .032: .03038
    ([0, 0, 0, 0], .8, .00712),
    ([0, 0, 0, 0], 0., 0.), ([], .5, 0.), ([1.], .5, 0.)])
def test_gain(returns, v, worth):
  assert abs(gain(returns, v) - worth) < 1e-4


def twin(returns, v):
  """The error is that of m + w (v - m) with bias^2 = D and noise s, at the best w."""
  n, m = len(returns), np.mean(returns)
  var = np.var(returns, ddof=1) if np.ptp(returns) else v * (1 - v)
  d = max((m - v) ** 2 - var / n, 0.)
  w = np.linspace(0, 1, 100_001)
  error = lambda s: np.min(w * w * d + (1 - w) ** 2 * s)
  return error(var / n) - error(var / (n + 1))


def test_twin():
  rng = np.random.default_rng(0)
  for _ in range(200):
    returns, v = rng.integers(0, 2, rng.integers(2, 17)).astype(float).tolist(), float(rng.uniform())
    assert abs(gain(returns, v) - twin(returns, v)) < 1e-6


def view(returns, *, data=None, running=0, width=None):
  nodes = [Node(-1, '', [], True, '', [], np.ones(0, bool), np.zeros(0, np.float32), {}, end=3 if r == 'failed' else 1,
                reward=dict(task=0. if r == 'failed' else r)) for r in returns]
  return View(Task('t', data, width), nodes, running, {})


def drawn(explorer, outcome, **kw):
  """How many rollouts a prompt gets whose k-th has the reward outcome[k]."""
  state, n = explorer.init(view([], **kw).task), 0
  while True:
    state, wishes = explorer.expand(state, view(outcome[:n], **kw), (0,))
    assert all(w._replace(width=1) == Expand() for w in wishes)
    if not wishes:
      return n
    n += sum(w.width for w in wishes)


def test_rollouts_of_a_prompt():
  right, wrong = [1.] * 20, [0.] * 20
  assert drawn(v05_budget(cost=.003, prior=.9), right) == 4, 'as expected'
  assert drawn(v05_budget(cost=.003, prior=.9), wrong) > 4, 'they contradict the prior'
  assert drawn(v05_budget(cost=1e-9, prior=.9), wrong) == 16
  assert drawn(v05_budget(cost=1e-9, prior=.9, most=6), wrong) == 6
  assert drawn(v05_budget(cost=1., prior=.9), wrong) == 4
  assert drawn(v05_budget(cost=.003, prior=.9), wrong) >= drawn(v05_budget(cost=.004, prior=.9), wrong)


def test_the_task_may_know_better():
  wrong = [0.] * 20
  for data in (dict(prior=0.), type('Data', (), dict(prior=0.))()):
    assert drawn(v05_budget(cost=1e-9, prior=.9), wrong, data=data) == 4
  assert drawn(v05_budget(cost=1e-9, prior=.9, key='hope'), wrong, data=dict(hope=0.)) == 4
  assert drawn(v05_budget(cost=1., prior=.9), wrong, width=2) == 2
  assert drawn(v05_budget(cost=1., prior=.9), wrong, width=0) == 0


def test_it_waits_and_failed_episodes_do_not_count():
  explorer = v05_budget(cost=1e-9, prior=.9)
  assert explorer.expand((4, 4), view([0., 0.], running=2), (0,)) == ((4, 4), [])
  assert explorer.expand((4, 4), view(['failed'] * 4), (0,)) == ((4, 4), [])
  assert explorer.expand((4, 4), view([0., 0., 0., 'failed']), (0,)) == ((5, 4), [Expand()])
