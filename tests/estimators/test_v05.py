"""V_0.5's fused baseline (arXiv:2603.10848): the sheet's numbers, its edges, and a slow twin."""

import functools

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.v05 import v05


def baseline(returns, v, variance, ddof):
  n, m = len(returns), sum(returns) / len(returns)
  var = sum((r - m) ** 2 for r in returns) / max(n - ddof, 1) if len(set(returns)) > 1 else 0.
  if var == 0. and variance == 'prior':
    var = max(v * (1 - v), 0.)
  s = var / n
  d = max((m - v) ** 2 - s, 0.)
  w = s / (s + d) if s + d else 1.
  return m + w * (v - m)


def twin(f, prior, *, channel='task', variance='prior', ddof=1):
  parts = []
  for group, found in forests.episodes(f, channel).items():
    b = baseline([r for _, r in found], prior[group], variance, ddof)
    parts += [(steps, r - b) for steps, r in found]
  return forests.over_paths(f, parts)


def one(returns, prior, **mode):
  return forests.run(v05, toy.batch([-1] * len(returns), task=returns, prompt=dict(prior=np.float32([prior]))), **mode)


@pytest.mark.parametrize('returns, prior, b', [
    # variance 1/3, s 1/12; (.5 - .2)^2 = .09: w = .9259; .01 is within the noise: w = 1; of sixteen s = 1/60: w = .1852
    ([1, 0, 0, 1], .2, .2222), ([1, 0, 0, 1], .4, .4), ([1, 0, 0, 1] * 4, .2, .4444)])
def test_worked_example(returns, prior, b):
  np.testing.assert_allclose(one(returns, prior), np.array(returns) - b, atol=1e-4)


def test_where_all_fail_the_prior_still_teaches():
  # var = .5 * .5, s = .0625; .25 - s = .1875: w = .25, b = .125
  np.testing.assert_allclose(one([0] * 4, .5), [-.125] * 4, atol=1e-6)
  np.testing.assert_allclose(one([1] * 4, .5), [.125] * 4, atol=1e-6)
  np.testing.assert_array_equal(one([0] * 4, .5, variance='sample'), [0] * 4)
  np.testing.assert_array_equal(one([0] * 4, 0.), [0] * 4)      # nothing else was expected


def test_one_rollout_and_impossible_priors():
  # one right answer: s = .25 = (1 - .5)^2, so w = 1 and b = .5
  np.testing.assert_allclose(one([1], .5), [.5], atol=1e-6)
  np.testing.assert_array_equal(one([1], .5, variance='sample'), [0])
  np.testing.assert_array_equal(one([1, 1], 1.5), [0, 0])        # v (1 - v) below 0 is no variance


def test_each_prompt_has_its_own_prior():
  batch = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, 1, 0], prompt=dict(hope=np.float32([.25, .5])))
  # var .5, s .25; (.5 - .25)^2 is within it: the priors are the baselines
  np.testing.assert_allclose(forests.run(v05, batch, prior='hope'), [.75, -.25, .5, -.5], atol=1e-6)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  prior = np.random.default_rng(seed).uniform(size=7).astype(np.float32)
  return f, prior.tolist(), f.batch(toy, prompt=dict(prior=prior))


@pytest.mark.parametrize('make, seed', [('chains', 0), ('trees', 1), ('trees', 2)])
@pytest.mark.parametrize('mode', [dict(), dict(variance='sample'), dict(ddof=0), dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, prior, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(v05, batch, **mode), twin(f, prior, **mode), rtol=2e-5, atol=5e-6)


def test_no_such_variance():
  with pytest.raises(ValueError, match="variance is 'prior' or 'sample', not 'none'"):
    v05(toy.batch([-1], task=1, prompt=dict(prior=np.zeros(1, np.float32))), variance='none')
