"""GiGPO against arXiv:2505.10978 (eqs. of section 4) and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.gigpo import gigpo


def normalise(pool, x, std, eps):
  """(x - mean) / (sample std + eps) over a pool of numbers, or only centred."""
  mean = sum(pool) / len(pool)
  if not std:
    return x - mean
  return (x - mean) / (math.sqrt(sum((p - mean) ** 2 for p in pool) / max(len(pool) - 1, 1)) + eps)


def twin(f, *, channel='task', gamma=.95, weight=1., std=False, population='steps', penalty=None, singleton='zero',
         eps=1e-6):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    rows = []   # (step, episode's score, discounted return, state)
    scores = []
    for steps, score in found:
      scores.append(score)
      back = 0.
      for s in reversed(steps):
        back = f.reward[channel][s] + gamma * back
        c = f.reward[penalty][s] if penalty else 0.   # of this step alone: not carried to earlier ones
        rows.append((s, score + c, back + c, f.state[s]))
    pool = [score for _, score, _, _ in rows] if population == 'steps' else scores
    for s, score, back, state in rows:
      if len(pool) > 1:
        episode = normalise(pool, score, std, eps)
      else:
        episode = score if singleton == 'raw' else 0.
      anchors = [b for _, _, b, other in rows if other == state]
      out[s] = episode + weight * normalise(anchors, back, std, eps)
  return out


# three rollouts s0 s1 s2 | s0 s1 | s0 s3, final rewards 1 0 0: step returns .9025 .95 1 | 0 0 | 0 0
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, -1, 5], task=[0, 0, 1, 0, 0, 0, 0],
               label=dict(state=['s0', 's1', 's2', 's0', 's1', 's0', 's3']))


@pytest.mark.parametrize('mode, expected', [
    (dict(std=False, population='steps'), [1.173, 1.046, .571, -.729, -.904, -.729, -.429]),
    (dict(std=True, population='steps'), [2.224, 1.776, 1.069, -1.379, -1.509, -1.379, -.802]),
    (dict(std=False, population='steps', weight=0.), [.571] * 3 + [-.429] * 4),
    (dict(std=False, population='episodes', weight=0.), [.667] * 3 + [-.333] * 4),
    (dict(std=False, population='episodes'), [1.268, 1.142, .667, -.634, -.808, -.634, -.333]),
], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(gigpo, toy.batch(**EXAMPLE), gamma=.95, **mode), expected, atol=1.1e-3)


@functools.cache
def forest(seed):
  f = forests.chains(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=True), dict(population='episodes'), dict(population='episodes', std=True), dict(gamma=1., weight=.5),
    dict(channel='format', gamma=.5), dict(weight=0., std=True, eps=.125),
    dict(penalty='invalid'), dict(penalty='invalid', std=True, singleton='raw'),
    dict(population='episodes', penalty='invalid', singleton='raw')], ids=str)
def test_twin(seed, mode):
  f, batch = forest(seed)
  np.testing.assert_allclose(forests.run(gigpo, batch, **mode), twin(f, **mode), rtol=2e-5, atol=5e-6)
