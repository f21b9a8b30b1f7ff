"""CM2's checklist advantage (namezhenzhang/CM2-RLCR-Tool-Agent@2758991a) by hand and against an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.cm2 import cm2


def twin(f, labels, *, channel='turn', turn='turn', holders=5, std=False, ddof=1, eps=1e-6):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    held = {}   # turn -> steps; a step that rollouts share is one
    for s in sorted({s for steps, _ in found for s in steps}):
      held.setdefault(labels[turn][s], []).append(s)
    for steps in held.values():
      if len(steps) < max(holders, 2):
        continue
      u = [f.reward[channel][s] for s in steps]
      mean = sum(u) / len(u)
      spread = math.sqrt(sum((x - mean) ** 2 for x in u) / (len(u) - ddof))
      for s, x in zip(steps, u, strict=True):
        out[s] = (x - mean) / (spread + eps if std else 1.)
  return out


@pytest.mark.parametrize('mode, expected', [
    (dict(), [.55, .05, .05, -.45, -.2]),   # mean .45; squares .3025 .0025 .0025 .2025 .04: .55, over 4 .1375 = .3708^2
    (dict(std=True), [1.4832, .1348, .1348, -1.2136, -.5394]),
    (dict(std=True, ddof=0), [1.6583, .1508, .1508, -1.3568, -.6030])], ids=str)
def test_worked_example(mode, expected):
  batch = toy.batch([-1] * 5, turn=[1, .5, .5, 0, .25], label=dict(turn=0))
  np.testing.assert_allclose(forests.run(cm2, batch, **mode), expected, atol=1e-4)


def test_a_turn_of_four_holders_is_ignored():
  # five first turns, four second ones
  batch = toy.batch([-1] * 5 + [0, 1, 2, 3], turn=[1, .5, .5, 0, .25, 1, 0, 0, 0], label=dict(turn=[0] * 5 + [1] * 4))
  first = [.55, .05, .05, -.45, -.2]
  np.testing.assert_allclose(forests.run(cm2, batch), first + [0] * 4, atol=1e-6)
  np.testing.assert_allclose(forests.run(cm2, batch, holders=4), first + [.75, -.25, -.25, -.25], atol=1e-6)
  np.testing.assert_array_equal(forests.run(cm2, batch, holders=6), [0] * 9)


@pytest.mark.parametrize('lost', [dict(judged=dict(turn=[True] * 6 + [False])), dict(end=[1] * 5 + [0, 3])], ids=str)
def test_a_rollout_with_a_failed_judge_or_tool_is_out(lost):
  # the sixth rollout has two turns, the second is lost: its first is neither credited nor counted
  labels = dict(turn=[0] * 6 + [1])
  batch = toy.batch([-1] * 6 + [5], turn=[1, .5, .5, 0, .25, 9, 1], label=labels, **lost)
  np.testing.assert_allclose(forests.run(cm2, batch), [.55, .05, .05, -.45, -.2, 0, 0], atol=1e-6)
  np.testing.assert_array_equal(forests.run(cm2, batch, holders=6), [0] * 7)


def test_prompts_do_not_mix():
  batch = toy.batch([-1] * 6, group=[0] * 3 + [1] * 3, turn=[1, 0, 0, 5, 5, 8], label=dict(turn=0))
  np.testing.assert_array_equal(forests.run(cm2, batch), [0] * 6)
  np.testing.assert_allclose(forests.run(cm2, batch, holders=3), [.6667, -.3333, -.3333, -1, -1, 2], atol=1e-4)


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  n = range(len(f.parent))
  turn = [.5 if f.group[i] == 2 else rng.choice([0., .25, .5, 1.]) for i in n]   # the third prompt has no variance
  f = f._replace(reward=f.reward | dict(turn=turn), judged=f.judged | dict(turn=[rng.random() > .08 for _ in n]))
  labels = dict(turn=[len(forests.path(f.parent, i)) - 1 for i in n], act=[rng.choice('xyz') for _ in n])
  return f, labels, f.batch(toy, label=labels)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(holders=2), dict(holders=3, std=True), dict(holders=2, std=True, ddof=0, eps=.125),
    dict(holders=2, turn='act'), dict(holders=1, channel='format'), dict(holders=3, channel='task', std=True)], ids=str)
def test_twin(make, seed, mode):
  f, labels, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(cm2, batch, **mode), twin(f, labels, **mode), rtol=1e-5, atol=1e-6)
