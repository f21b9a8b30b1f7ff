"""AEPO-agentic's entropy-aware advantage (multi-agent-deep-research/ARPO@870d54ca `core_algos.py`) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.aepo_agentic import aepo_agentic


@functools.wraps(aepo_agentic)
def modulated(batch, adv=None, **mode):
  del adv
  return aepo_agentic(batch, batch.tokens.stream['adv'], **mode)


def twin(f, batch, *, coef=.2, ddof=1):
  adv, h = (np.asarray(batch.tokens.stream[k], float) for k in ('adv', 'entropy'))
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  said = [(r, c) for sequence in forests.sequences(batch) for r, c, s, trained in sequence if trained and s in live]
  mean = sum(h[at] for at in said) / len(said)
  std = math.sqrt(sum((h[at] - mean) ** 2 for at in said) / (len(said) - ddof))
  out = np.zeros(adv.shape)
  for at in said:
    out[at] = adv[at] * (1 + coef * (h[at] - mean) / std)
  return out


def example(entropy, adv, **kw):
  return toy.batch([-1], n_tokens=len(adv), task=0, stream=dict(entropy=[entropy], adv=[adv]), **kw)


def test_worked_example():
  # H = 2 1 .5 .5: mean 1, unbiased std .70711, z = 1.41421 0 -.70711 -.70711, so 1 + .2 z = 1.282843 1 .858579 .858579
  batch = example([2., 1., .5, .5], [1., 1., -1., -1.])
  got = forests.run(modulated, batch)
  np.testing.assert_allclose(got, [[1.282843, 1., -.858579, -.858579]], atol=1e-6)
  # as executed, r = 1.5 1 .5 1.5 with the release's clip: -A 1.2, -A, 0 (clipped) and -A 1.5 are the gradients
  np.testing.assert_allclose(got * np.asarray([[-1.2, -1., 0., -1.5]]), [[-1.539412, -1., 0., 1.287868]], atol=2e-6)
  np.testing.assert_allclose(forests.run(modulated, batch, ddof=0), [[1.326599, 1., -.836701, -.836701]], atol=1e-6)
  np.testing.assert_allclose(forests.run(modulated, batch, coef=0.), [[1., 1., -1., -1.]], atol=1e-6)


@pytest.mark.parametrize('entropy', [[.3, .3, .3], [.3]])
def test_no_spread(entropy):
  adv = [2., -1., .5][:len(entropy)]     # the std is 1 where it would be 0: z = 0
  np.testing.assert_allclose(forests.run(modulated, example(entropy, adv)), [adv], atol=1e-6)


def test_tokens_that_do_not_count():
  # an observation and a failed episode with entropies of their own: H = 2 1 .5 .5 are the others
  batch = toy.batch([-1, 0, -1], end=[0, 1, 3], n_tokens=[2, 2, 2], n_obs=[0, 1, 0], task=0, stream=dict(
      entropy=[[2., 1., 9., .5, .5], [7., 8., 0., 0., 0.]], adv=[[1., 1., 0., -1., -1.], [0., 0., 0., 0., 0.]]))
  got = forests.run(modulated, batch)
  np.testing.assert_allclose(got, [[1.282843, 1., 0., -.858579, -.858579], [0.] * 5], atol=1e-6)


@functools.cache
def forest(make, seed, pack):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  n = range(len(f.parent))
  batch = f.batch(toy, pack=pack, n_tokens=[rng.randint(1, 3) for _ in n], n_obs=[rng.randint(0, 1) for _ in n])
  adv = np.asarray([*(rng.gauss(0, 1) if s in live else 0. for s in n), 0.])[np.asarray(batch.tokens.node)]
  entropy = np.random.default_rng(seed).exponential(size=batch.tokens.node.shape)
  return f, forests.with_stream(batch, entropy=entropy, adv=np.where(batch.tokens.mask, adv, 0.))


@pytest.mark.parametrize('make, seed, pack', [('chains', 0, 1), ('chains', 1, 3), ('trees', 2, 1), ('trees', 3, 2)])
@pytest.mark.parametrize('mode', [dict(), dict(coef=.5, ddof=0)], ids=str)
def test_twin(make, seed, pack, mode):
  f, batch = forest(make, seed, pack)
  np.testing.assert_allclose(forests.run(modulated, batch, **mode), twin(f, batch, **mode), rtol=2e-5, atol=5e-6)
