"""CAPO with a generative judge (arXiv:2508.02298, from two notes that agree) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.capo_generative import capo_generative


def twin(f, counts, *, channel='task', process='process', whole=2., part=1., eps=1e-6, ddof=1):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    reward = {}   # step -> its tokens' reward, the outcome being the mean over the episodes through it
    for s in {s for steps, _ in found for s in steps}:
      through = [ret for steps, ret in found if s in steps]
      reward[s] = whole * sum(through) / len(through) - part * (f.reward[process][s] < 0)
    tokens = [r for s, r in reward.items() for _ in range(counts[s])]
    mean = sum(tokens) / len(tokens)
    spread = math.sqrt(sum((r - mean) ** 2 for r in tokens) / max(len(tokens) - ddof, 1))
    for s, r in reward.items():
      out[s] = (r - mean) / (spread + eps)
  return out


# a right and a wrong answer of three steps, the second of each judged wrong: rewards 2 1 2 and 0 -1 0
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, 4], task=[0, 0, 1, 0, 0, 0], process=[0, -1, 0, 0, -1, 0])


@pytest.mark.parametrize('counts, mode, expected', [
    (1, dict(), [1.100964, .275241, 1.100964, -.550482, -1.376205, -.550482]),            # mean .666667, deviation 1.211060
    (1, dict(ddof=0), [1.206045, .301511, 1.206045, -.603023, -1.507557, -.603023]),      # 1.105542
    (1, dict(part=0.), [.912871, .912871, .912871, -.912871, -.912871, -.912871]),        # 2 2 2 0 0 0, deviation 1.095445
    (1, dict(whole=0.), [.645497, -1.290994, .645497, .645497, -1.290994, .645497]),      # 0 -1 0 0 -1 0, deviation .516398
    ([1, 2, 1, 1, 1, 1], dict(), [1.155492, .256776, 1.155492, -.641940, -1.540656, -.641940]),   # tokens 2 1 1 2 0 -1 0
], ids=str)
def test_worked_example(counts, mode, expected):
  np.testing.assert_allclose(forests.run(capo_generative, toy.batch(**EXAMPLE, n_tokens=counts), **mode), expected, atol=5e-6)


def test_a_shared_step_has_the_mean_of_its_outcomes():
  # 0 leads to a right and a wrong answer: tokens 1, 2 - 1, 0 of mean .666667, deviation .577350
  b = toy.batch([-1, 0, 0], task=[0, 1, 0], process=[0, -1, 0])
  np.testing.assert_allclose(forests.run(capo_generative, b), [.577349, .577349, -1.154698], atol=5e-6)


@functools.cache
def forest(kind, seed):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  further = {k: [rng.choice([0., 0., -1.]) for _ in f.parent] for k in ('process', 'judge')}
  f = f._replace(reward=f.reward | further)
  counts = [rng.randint(1, 4) for _ in f.parent]
  return f, counts, f.batch(toy, n_tokens=counts, n_obs=[rng.randint(0, 2) for _ in f.parent])


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(), dict(ddof=0, eps=.125), dict(process='judge', whole=1., part=2.), dict(channel='format', part=.5)], ids=str)
def test_twin(kind, seed, mode):
  f, counts, batch = forest(kind, seed)
  np.testing.assert_allclose(forests.run(capo_generative, batch, **mode), twin(f, counts, **mode), rtol=2e-5, atol=5e-6)
