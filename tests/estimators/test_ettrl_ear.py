"""ETTRL's entropy-based advantage reshaping (arXiv:2508.11356, from a note: Adv-Res and Adv-Clip) and an independent twin."""

import functools
import inspect
import random

import forests
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.ettrl_ear import ettrl_ear


def behind(batch, adv, **mode):
  """The modulator as `forests.run` takes it: what it modulates stands in `value['adv']`."""
  return ettrl_ear(batch, batch.nodes.value['adv'], **mode)


behind.__signature__ = inspect.signature(functools.partial(ettrl_ear, adv=None))


def twin(f, adv, counts, entropy, *, mode='residual', bound=1., least=0.):
  if mode == 'clip':
    return [min(max(a, -bound), bound) for a in adv]
  pairs = []
  for found in forests.episodes(f, 'task').values():
    mean = [sum(counts[s] * entropy[s] for s in steps) / sum(counts[s] for s in steps) for steps, _ in found]   # over tokens
    over = sum(mean) / len(mean)
    pairs += [(steps, max(1 + (over - h) / over, least)) for (steps, _), h in zip(found, mean, strict=True)]
  return [a * y for a, y in zip(adv, forests.over_paths(f, pairs), strict=True)]


@pytest.mark.parametrize('entropy, mode, expected', [
    ([.2, .4, .6], dict(), [1.5, 1, .5]),
    ([.1, .1, 1.], dict(), [1.75, 1.75, 0]),                     # the third would be -.5
    ([.1, .1, 1.], dict(least=.25), [1.75, 1.75, .25]),
    ([.1, .1, 1.], dict(least=-1.), [1.75, 1.75, -.5]),
    ([0, 0, 0], dict(), [1, 1, 1]),                              # no entropy, nothing to tell episodes apart by
    ([.2, .4, .6], dict(mode='clip'), [1, 1, 1]),
    ([.2, .4, .6], dict(mode='clip', bound=.25), [.25, .25, .25]),
], ids=str)
def test_worked_example(entropy, mode, expected):
  b = toy.batch([-1] * 3, task=[1, 0, 0], stream=dict(entropy=entropy))
  for sign in (1, -1):
    got = ettrl_ear(b, jnp.full(3, sign, jnp.float32), **mode)
    np.testing.assert_allclose(got, [sign * y for y in expected], atol=2e-6)


def test_a_mean_over_tokens_and_then_over_episodes():
  # 0 leads to 1 and 2: H = (3 * .2 + .6) / 4 = .3 and (3 * .2 + 3 * 1.) / 6 = .6, mean .45; Y = 1.333333 .666667, 0 has 1
  b = toy.batch([-1, 0, 0], n_tokens=[3, 1, 3], task=[0, 1, 0], stream=dict(entropy=[.2, .6, 1.]))
  np.testing.assert_allclose(ettrl_ear(b, jnp.asarray([.5, 1, -1], jnp.float32)), [.5, 1.333333, -.666667], atol=1e-6)


@functools.cache
def forest(kind, seed):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  draw = lambda one: [one() for _ in f.parent]
  counts, entropy, n_obs = draw(lambda: rng.randint(1, 3)), draw(lambda: rng.expovariate(1.)), draw(lambda: rng.randint(0, 2))
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  adv = [rng.gauss(0., 1.) if s in live else 0. for s in range(len(f.parent))]
  batch = f.batch(toy, value=dict(adv=adv), n_tokens=counts, n_obs=n_obs, stream=dict(entropy=entropy))
  t = batch.tokens      # of an observation nothing is counted
  return f, adv, counts, entropy, forests.with_stream(batch, entropy=np.where(t.sampled, t.stream['entropy'], 9.))


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(), dict(least=.75), dict(least=-9.), dict(mode='clip'), dict(mode='clip', bound=.25)], ids=str)
def test_twin(kind, seed, mode):
  f, adv, counts, entropy, batch = forest(kind, seed)
  np.testing.assert_allclose(forests.run(behind, batch, **mode), twin(f, adv, counts, entropy, **mode), rtol=2e-5, atol=5e-6)


def test_no_such_mode():
  with pytest.raises(ValueError, match='scale'):
    ettrl_ear(toy.batch([-1], task=1, stream=dict(entropy=[.1])), jnp.ones(1, jnp.float32), mode='scale')
