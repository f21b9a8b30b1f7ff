"""ReMax against arXiv:2310.10505 (the greedy answer's return is the baseline) and an independent twin."""

import functools
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.remax import remax


def twin(f, drawn, *, channel='task'):
  advantages = []
  for found in forests.episodes(f, channel).values():
    greedy = [r for steps, r in found if drawn[steps[-1]] == 0]
    for steps, r in found:
      if drawn[steps[-1]] != 0:     # a greedy episode is in no mean over the episodes below a shared step
        advantages.append((steps, r - sum(greedy) / len(greedy) if greedy else 0.))
  return forests.over_paths(f, advantages)


def test_worked_example():
  # A = R - R(greedy): 1, 0, .25 against .5; the greedy answer itself gets nothing
  batch = toy.batch([-1] * 4, label=dict(drawn=[1, 1, 0, 1]), task=[1, 0, .5, .25])
  np.testing.assert_allclose(forests.run(remax, batch), [.5, -.5, 0, -.25], atol=1e-6)


def test_several_greedy_answers_and_none():
  # prompt 0: the mean of .5 and 1; prompt 1: no greedy answer, prompt 2: its own failed, prompt 3: nothing but a greedy one
  batch = toy.batch([-1] * 8, group=[0, 0, 0, 1, 1, 2, 2, 3], end=[1, 2, 1, 1, 1, 1, 3, 1],
                    label=dict(drawn=[1, 0, 0, 1, 2, 1, 0, 0]), task=[1, .5, 1, 1, 0, 1, .5, 1])
  np.testing.assert_allclose(forests.run(remax, batch), [.25, 0, 0, 0, 0, 0, 0, 0], atol=1e-6)


def test_tree():
  # below the shared step 0: sampled 1 -> 1, sampled 2 -> 0, greedy 3 -> .75; the step has the mean of the sampled ones
  batch = toy.batch([-1, 0, 0, 0], label=dict(drawn=[0, 1, 1, 0]), task=[0, 1, 0, .75])
  np.testing.assert_allclose(forests.run(remax, batch), [-.25, .25, -.75, 0], atol=1e-6)


def test_the_last_step_tells():
  # 0-1 ends on a sampled step, 2-3 on a greedy one
  batch = toy.batch([-1, 0, -1, 2], label=dict(drawn=[0, 1, 1, 0]), task=[0, 1, 0, .25])
  np.testing.assert_allclose(forests.run(remax, batch), [.75, .75, 0, 0], atol=1e-6)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  rng = random.Random(seed)
  drawn = [rng.choice([0, 1, 1, 2]) for _ in f.parent]
  return f, drawn, f.batch(toy, label=dict(drawn=drawn, how=[int(d == 0) for d in drawn]))


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(channel='format'), dict(drawn='how')], ids=str)
def test_twin(make, seed, mode):
  f, drawn, batch = forest(make, seed)
  mode, label = dict(mode), [int(d == 0) for d in drawn] if 'drawn' in mode else drawn
  want = twin(f, label, channel=mode.get('channel', 'task'))
  assert any(want), 'a prompt with both kinds'
  np.testing.assert_allclose(forests.run(remax, batch, **mode), want, rtol=1e-5, atol=2e-6)
