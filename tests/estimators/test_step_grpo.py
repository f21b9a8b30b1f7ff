"""Step-GRPO (R1-Router, OpenBMB/R1-Router@c0a0c1ba): GRPO among the answers to one step, by hand and against a twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.step_grpo import step_grpo


def twin(f, labels, *, channel='turn', same=None, std=True, ddof=1, eps=1e-6):
  ended = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  seen = [s for s in sorted(ended) if channel not in f.judged or f.judged[channel][s]]
  name = f.parent if same is None else labels[same]
  out = [0.] * len(f.parent)
  for s in seen:
    pool = [f.reward[channel][o] for o in seen if f.group[o] == f.group[s] and name[o] == name[s]]
    if len(pool) > 1:
      mean = sum(pool) / len(pool)
      spread = math.sqrt(sum((r - mean) ** 2 for r in pool) / (len(pool) - ddof))
      out[s] = (f.reward[channel][s] - mean) / (spread + eps if std else 1.)
  return out


@pytest.mark.parametrize('mode, expected', [
    (dict(), [1, -1, -1, 1, 0]), (dict(std=False), [.5, -.5, -.5, .5, 0]),
    (dict(ddof=0), [1.118, -1.118, -1.118, 1.118, 0])], ids=str)
def test_answers_to_one_prompt(mode, expected):
  # the numbers of GRPO: R = 1 0 0 1 .5, sample deviation .5, population deviation .4472
  batch = toy.batch([-1] * 5, turn=[1, 0, 0, 1, .5])
  np.testing.assert_allclose(forests.run(step_grpo, batch, **mode), expected, atol=1e-4)


def test_a_step_against_those_that_answered_the_same_step():
  # step 0 was answered by 1 2 3 (rewards 1 .5 0), step 4 by 5 alone; its own later rewards are none of a step's business
  batch = toy.batch([-1, 0, 0, 0, -1, 4], turn=[.75, 1, .5, 0, .25, 9])
  np.testing.assert_allclose(forests.run(step_grpo, batch, std=False), [.25, .5, 0, -.5, -.25, 0], atol=1e-6)
  np.testing.assert_allclose(forests.run(step_grpo, batch), [.7071, 1, 0, -1, -.7071, 0], atol=1e-4)


def test_a_label_names_the_prompt():
  # x: 1 and 0 of the first prompt; the x of the second prompt is another, y and z stand alone
  batch = toy.batch([-1, 0, -1, 2, -1], group=[0, 0, 0, 0, 1], turn=[1, 5, 7, 0, 3], label=dict(query=list('xyzxx')))
  np.testing.assert_allclose(forests.run(step_grpo, batch, same='query', std=False), [.5, 0, 0, -.5, 0], atol=1e-6)


def test_only_the_step_without_a_verdict_is_out():
  # step 2 has no verdict: it is not counted, but step 3 behind it is; step 5 failed
  batch = toy.batch([-1, -1, -1, 2, 2, -1], turn=[1, 0, 7, 1, 0, 5], judged=dict(turn=[True, True, False, True, True, True]),
                    end=[1, 1, 0, 1, 2, 3])
  np.testing.assert_allclose(forests.run(step_grpo, batch, std=False), [.5, -.5, 0, .5, -.5, 0], atol=1e-6)


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  n = range(len(f.parent))
  turn = [.5 if f.group[i] == 2 else rng.choice([-1., 0., .5, 1.]) for i in n]   # the third prompt has no variance
  f = f._replace(reward=f.reward | dict(turn=turn), judged=f.judged | dict(turn=[rng.random() > .1 for _ in n]))
  labels = dict(query=[rng.choice('xyz') for _ in n], state=f.state)
  return f, labels, f.batch(toy, label=labels)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=False), dict(ddof=0, eps=.125), dict(same='query'), dict(same='state', std=False),
    dict(same='query', channel='task', ddof=0), dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, labels, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(step_grpo, batch, **mode), twin(f, labels, **mode), rtol=1e-5, atol=1e-6)
