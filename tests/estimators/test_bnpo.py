"""BNPO (arXiv:2506.02864) against the numbers of its released code (changyi7231/BNPO@a9c51b98) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.bnpo import bnpo


def pdf(p, alpha, beta):
  """The Beta density for p in (0, 1)."""
  log = math.lgamma(alpha) + math.lgamma(beta) - math.lgamma(alpha + beta)
  return math.exp((alpha - 1) * math.log(p) + (beta - 1) * math.log(1 - p) - log)


def weights(chances, cap=1e6):
  """One for each prompt: 1 / Beta(p; alpha, beta), alpha and beta by moments over the prompts."""
  mean = sum(chances) / len(chances)
  v = sum((p - mean) ** 2 for p in chances) / (len(chances) - 1) if len(chances) > 1 else 0.
  if v == 0:
    return [1.] * len(chances)
  a, b = (mean * (1 - mean) / v - 1) * mean, (mean * (1 - mean) / v - 1) * (1 - mean)
  alpha, beta = max(1, 1 + a / 3), max(1, 1 + b / 3)
  return [min(1 / pdf(p, alpha, beta), cap) if 0 < p < 1 else 0. for p in chances]   # at 0 and 1 no return differs from p


def twin(f, *, channel='task', low=0., high=1., cap=1e6):
  found = [[(steps, (r - low) / (high - low)) for steps, r in e] for e in forests.episodes(f, channel).values()]
  chances = [sum(r for _, r in e) / len(e) for e in found]    # of one episode too
  return forests.over_paths(f, [(steps, w * (r - p)) for e, p, w in zip(found, chances, weights(chances, cap), strict=True)
                                for steps, r in e])


THREE = dict(parent=[-1] * 12, group=[0] * 4 + [1] * 4 + [2] * 4, task=[1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0])
A = np.array([.680175, *[-.226725] * 3, *[.392699] * 2, *[-.392699] * 2, *[.226725] * 3, -.680175])   # alpha = beta = 1.5


def test_worked_example_of_the_release():
  # p = .25 .5 .75: mu .5, v .0625, a = b = 1.5, alpha = beta = 1.5, so w = pi / (8 sqrt(p (1 - p))): .9069 .7854 .9069
  np.testing.assert_allclose(forests.run(bnpo, toy.batch(**THREE)), A, atol=2e-6)


def test_scores_are_mapped_to_the_unit_interval():
  batch = toy.batch(**{**THREE, 'task': 4 * np.array(THREE['task']) - 3})   # -3 and 1
  np.testing.assert_allclose(forests.run(bnpo, batch, low=-3., high=1.), A, atol=2e-6)


def test_cap():
  # 1 / pdf = .9069 .7854 .9069, at most .8
  want = np.array([.6, -.2, -.2, -.2, .392699, .392699, -.392699, -.392699, .2, .2, .2, -.6])
  np.testing.assert_allclose(forests.run(bnpo, toy.batch(**THREE), cap=.8), want, atol=2e-6)


@pytest.mark.parametrize('group, task, expected', [
    ([0, 0, 0, 0], [1, 0, 0, 0], [.75, -.25, -.25, -.25]),      # one prompt: alpha = beta = 1
    ([0, 0, 1, 1], [1, 0, 0, 1], [.5, -.5, -.5, .5]),           # equal chances, v = 0: ours
    ([0, 0, 1, 1], [0, 0, 1, 0], [0, 0, .477390, -.477390]),    # p = 0 .5: mu .25, v .125, a .125, b .375: 1 / Beta(.5) = .954780
    # p = 0 .75: v > mu (1 - mu), so a, b < 0 and alpha = beta = 1
    ([0] * 4 + [1] * 4, [0, 0, 0, 0, 1, 1, 1, 0], [0] * 4 + [.25] * 3 + [-.75]),
    ([0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]),                 # p = 1 0
    # p = 2.5 .5: no density at 2.5, w = 1 (ours); alpha = 1, beta = 1.229167, 1 / Beta(.5) = .953620
    ([0, 0, 1, 1], [3, 2, 1, 0], [.5, -.5, .476810, -.476810]),
    # one episode: its chance is its return (ours: 1; the release takes 0, by symmetry the same weight here), and it gets 0
    ([0, 0, 1], [1, 0, 1], [.477390, -.477390, 0])], ids=str)
def test_edges(group, task, expected):
  got = forests.run(bnpo, toy.batch([-1] * len(task), group=group, task=task))
  np.testing.assert_allclose(got, expected, atol=2e-6)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  rng = random.Random(seed)
  f.reward['right'] = [float(rng.random() < .5) if end in (1, 2) else 0. for end in f.end]
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(channel='right'), dict(low=-2.5, high=2.5), dict(low=-2.5, high=2.5, cap=.4),
    dict(channel='format', low=-.125, high=.75)], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(bnpo, batch, **mode), twin(f, **mode), rtol=1e-4, atol=5e-6)
