"""PAV's effective reward (arXiv:2410.08146): the sheet's numbers, what telescopes, and a slow twin."""

import functools

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.pav import pav


def twin(f, p, before, *, channel='task', alpha=1., best_of=4, std=False, ddof=1, eps=1e-6):
  amplified = lambda x: x if best_of is None else 1 - (1 - min(max(x, 0.), 1.)) ** best_of
  parts, out = [], [0.] * len(f.parent)
  for group, found in forests.episodes(f, channel).items():
    returns = [r for _, r in found]
    mean = sum(returns) / len(returns)
    spread = (sum((r - mean) ** 2 for r in returns) / max(len(returns) - ddof, 1)) ** .5 + eps if std else 1.
    ends = {steps[-1]: r for steps, r in found}
    parts += [(steps, (r - mean) / spread) for steps, r in found]
    for steps, _ in found:
      at = amplified(before[group])
      for s in steps:
        v = ends.get(s, amplified(p[s]))
        out[s], at = alpha * (v - at), v
  return [a + b for a, b in zip(out, forests.over_paths(f, parts), strict=True)]


def one(before, p, outcome, **mode):
  batch = toy.batch(list(range(-1, len(p) - 1)), task=[0] * (len(p) - 1) + [outcome], value=dict(prover=p),
                    prompt=dict(prover=np.float32([before])))
  return forests.run(pav, batch, **mode)


def test_worked_examples():
  # V .25 .5 .5 .75; behind the last step stands the outcome
  np.testing.assert_allclose(one(.25, [.5, .5, .75, 9.], 1, best_of=None), [.25, 0, .25, .25], atol=1e-6)
  # the best of four: .2 -> .5 is .5904 -> .9375
  np.testing.assert_allclose(one(.2, [.5, 0.], 0), [.3471, -.9375], atol=1e-4)
  np.testing.assert_allclose(one(.2, [.5, 0.], 0, alpha=2.), [.6942, -1.875], atol=1e-4)


def test_a_weak_policy_makes_small_progress_that_the_prover_sees():
  small, large = one(.01, [.05, 0.], 0, best_of=None), one(.01, [.05, 0.], 0, best_of=16)
  assert abs(small[0] - .04) < 1e-6 and large[0] > .4


def test_progress_along_a_path_sums_to_outcome_minus_what_was_hoped():
  got = one(.3, [.9, .1, .6, .2, 0.], 1, best_of=None)
  assert abs(got.sum() - .7) < 1e-6 and abs(one(.3, [.4, 0.], 1, best_of=None).sum() - .7) < 1e-6


def test_outcome_against_the_prompt():
  # a shared step, then right and wrong; p before .5, behind the shared step .75
  batch = toy.batch([-1, 0, 0], task=[0, 1, 0], value=dict(prover=[.75, 0, 0]), prompt=dict(prover=np.float32([.5])))
  np.testing.assert_allclose(forests.run(pav, batch, best_of=None), [.25, .5 + .25, -.5 - .75], atol=1e-6)
  np.testing.assert_allclose(forests.run(pav, batch, alpha=0.), [0, .5, -.5], atol=1e-6)
  np.testing.assert_allclose(forests.run(pav, batch, alpha=0., std=True), [0, .7071, -.7071], atol=1e-4)


def test_an_episode_that_is_no_episode():
  batch = toy.batch([-1] * 4, end=[1, 2, 3, 0], task=[1, 0, 1, 1], value=dict(prover=.9), prompt=dict(prover=np.float32([.5])))
  np.testing.assert_allclose(forests.run(pav, batch, best_of=None), [1, -1, 0, 0], atol=1e-6)


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), np.random.default_rng(seed)
  p, before = (rng.uniform(-.1, 1.1, size=k).astype(np.float32) for k in (len(f.parent), 7))
  return f, p.tolist(), before.tolist(), f.batch(toy, value=dict(prover=p), prompt=dict(prover=before))


@pytest.mark.parametrize('make, seed', [('chains', 0), ('trees', 1), ('trees', 2)])
@pytest.mark.parametrize('mode', [dict(), dict(best_of=None, alpha=.5), dict(best_of=2, std=True, eps=.125),
                                  dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, p, before, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(pav, batch, **mode), twin(f, p, before, **mode), rtol=2e-5, atol=5e-6)
