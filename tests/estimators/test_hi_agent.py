"""Hi-Agent's foresight advantage (arXiv:2510.14388): sub-goals of one state by hand, executions below them, and a slow twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.hi_agent import hi_agent


def twin(f, low, *, channel='task', form='format', weight=1., weight_form=1., same='state', std=True, ddof=1, eps=1e-6):
  """Feedback found by walking down from each sub-goal through steps of the low-level model."""
  n = range(len(f.parent))
  ended = {s for i in n if f.end[i] in (1, 2) for s in forests.path(f.parent, i)}
  given = lambda c, s: c not in f.judged or f.judged[c][s]

  def feedback(s):
    if not given(channel, s):
      return None
    below = [feedback(c) for c in n if f.parent[c] == s and c in ended and low[c]]
    below += [0.] * sum(f.parent[c] == s and c in ended and not low[c] for c in n)   # of the mean, as `share` counts siblings
    return None if None in below else f.reward[channel][s] + (sum(below) / len(below) if below else 0.)

  r = {}
  for s in ended:
    e = None if low[s] else feedback(s)
    if e is not None and (form is None or given(form, s)):
      r[s] = weight * e + (0. if form is None else weight_form * f.reward[form][s])
  key = lambda s: (f.group[s], f.state[s] if same == 'state' else f.parent[s])
  out = [0.] * len(f.parent)
  for s in r:
    pool = [r[o] for o in r if key(o) == key(s)]
    mean = sum(pool) / len(pool)
    spread = math.sqrt(sum((x - mean) ** 2 for x in pool) / max(len(pool) - ddof, 1)) + eps
    out[s] = (r[s] - mean) / (spread if std else 1.)
  return out


def test_four_sub_goals_for_one_state():
  # executed 1 0 1 0, in form 1 1 0 0: r = 2 1 1 0, deviation .8165
  batch = toy.batch([-1] * 4, turn=[1, 0, 1, 0], format=[1, 1, 0, 0], label=dict(state=['s'] * 4))
  np.testing.assert_allclose(forests.run(hi_agent, batch), [1.2247, 0, 0, -1.2247], atol=1e-4)
  np.testing.assert_allclose(forests.run(hi_agent, batch, std=False, weight_form=.5), [.75, -.25, .25, -.75], atol=1e-6)
  np.testing.assert_allclose(forests.run(hi_agent, batch, std=False, form=None), [.5, -.5, .5, -.5], atol=1e-6)


def test_a_task_of_many_steps_is_many_tasks_of_one():
  # what happens later does not count: the second steps are paid in their own group
  batch = toy.batch([-1, 0, -1, 2], turn=[1, 0, 0, 1], format=0, label=dict(state=list('abab')))
  np.testing.assert_allclose(forests.run(hi_agent, batch, std=False), [.5, -.5, -.5, .5], atol=1e-6)


def test_feedback_of_the_execution():
  # two sub-goals, each executed in two steps; the first is executed twice from its first low-level step on: .5 + mean(1, 0)
  batch = toy.batch([-1, 0, 1, 1, -1, 4, 5], turn=[0, .5, 1, 0, 0, 0, .25], format=0,
                    label=dict(state=list('sxyysxy'), low=[0, 1, 1, 1, 0, 1, 1]))
  np.testing.assert_allclose(forests.run(hi_agent, batch, low='low', std=False), [.375, 0, 0, 0, -.375, 0, 0], atol=1e-6)


def test_a_sub_goal_without_a_verdict_below_it_is_out():
  batch = toy.batch([-1, 0, -1, 2, -1, 4], turn=[0, 1, 0, 0, 0, 7], format=0, judged=dict(turn=[True] * 5 + [False]),
                    label=dict(state=list('sxsxsx'), low=[0, 1] * 3))
  np.testing.assert_allclose(forests.run(hi_agent, batch, low='low', std=False), [.5, 0, -.5, 0, 0, 0], atol=1e-6)


def test_siblings():
  # the same observation behind different steps is another state for siblings
  batch = toy.batch([-1, -1, 0, 0, 1], turn=[0, 0, 1, 0, 1], format=0, label=dict(state=list('aabbb')))
  np.testing.assert_allclose(forests.run(hi_agent, batch, same=None, std=False), [0, 0, .5, -.5, 0], atol=1e-6)
  np.testing.assert_allclose(forests.run(hi_agent, batch, std=False), [0, 0, 1 / 3, -2 / 3, 1 / 3], atol=1e-6)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  low = [(i * 7 + seed) % 3 == 0 for i in range(len(f.parent))]
  return f, low, f.batch(toy, label=dict(low=[int(x) for x in low]))


@pytest.mark.parametrize('make, seed', [('chains', 0), ('trees', 1), ('trees', 2)])
@pytest.mark.parametrize('mode', [dict(eps=.125), dict(same=None, eps=.125), dict(std=False, weight=.5, weight_form=2.),
                                  dict(channel='format', form='invalid', ddof=0, eps=.125), dict(form=None, std=False)], ids=str)
@pytest.mark.parametrize('deep', [False, True], ids=['alone', 'low'])
def test_twin(make, seed, mode, deep):
  f, low, batch = forest(make, seed)
  want = twin(f, low if deep else [False] * len(low), **mode)
  got = forests.run(hi_agent, batch, **(dict(channel='task', low='low' if deep else None) | mode))
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=5e-6)
