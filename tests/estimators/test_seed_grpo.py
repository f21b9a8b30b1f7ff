"""SEED-GRPO (arXiv:2505.12346, as a published review states it) and an independent twin."""

import functools
import inspect
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.grpo import grpo
from rlx.estimators.seed_grpo import seed_grpo


def behind(batch, adv, **mode):
  """The modulator as `forests.run` takes it: what it modulates stands in `value['adv']`."""
  return seed_grpo(batch, batch.nodes.value['adv'], **mode)


behind.__signature__ = inspect.signature(functools.partial(seed_grpo, adv=None))


def factor(x, shape, power):
  x = max(1 - x, 0.) if shape != 'exp' else x
  return dict(linear=x, exp=math.exp(-x), focal=x ** power)[shape]


def twin(f, more, *, answer='answer', weights='counts', shape='linear', alpha=1., power=1.):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, 'task').values():
    said = [sum(more['n_tokens'][s] * more['logp'][s] for s in steps) for steps, _ in found]   # log pi of each answer
    mass = [math.exp(x - max(said)) if weights == 'probability' else 1. for x in said]
    cluster = {}
    for (steps, _), m in zip(found, mass, strict=True):
      cluster[more[answer][steps[-1]]] = cluster.get(more[answer][steps[-1]], 0.) + m / sum(mass)
    entropy = -sum(map(math.log, cluster.values())) / len(cluster)
    x = alpha * entropy / math.log(len(found)) if len(found) > 1 else 0.
    for s in {s for steps, _ in found for s in steps}:
      out[s] = more['adv'][s] * factor(x, shape, power)
  return out


# answers a a b c: p = .5 .25 .25, SE = 1.155245 of at most log 4, x = .833333; advantages .5 .5 -.5 -.5
@pytest.mark.parametrize('mode, size', [
    (dict(alpha=.5), .291667), (dict(), .083333), (dict(shape='exp'), .217299), (dict(shape='focal', power=2.), .013889),
    (dict(alpha=2.), 0.),      # 1 - x < 0: no sign is turned
], ids=str)
def test_worked_example(mode, size):
  b = toy.batch([-1] * 4, task=[1, 1, 0, 0], label=dict(answer=list('aabc')))
  np.testing.assert_allclose(seed_grpo(b, grpo(b, std=False), **mode), [size, size, -size, -size], atol=2e-6)


@pytest.mark.parametrize('answers, shape, f', [
    ('aaaa', 'linear', 1.), ('aaaa', 'exp', 1.), ('aaaa', 'focal', 1.), ('abcd', 'linear', 0.), ('abcd', 'exp', math.exp(-1))])
def test_one_answer_and_all_different(answers, shape, f):
  b = toy.batch([-1] * 4, task=[1, 1, 0, 0], label=dict(answer=list(answers)))
  np.testing.assert_allclose(seed_grpo(b, grpo(b, std=False), shape=shape), [.5 * f, .5 * f, -.5 * f, -.5 * f], atol=1e-6)


@pytest.mark.parametrize('logp, f', [
    ([-3000., -3000.], .5),                  # p = .5 .5 whatever their size: x = alpha
    ([-3000., -3000. - math.log(3)], .396241),   # p = .75 .25: SE = .836988, x = .5 SE / log 2 = .603759
    ([-3000., -5000.], 0.)])                 # SE = 1000: all the weight is gone, and nothing is nan
def test_long_answers_do_not_underflow(logp, f):
  b = toy.batch([-1, -1], task=[1, 0], label=dict(answer=['a', 'b']), logp=logp)
  np.testing.assert_allclose(seed_grpo(b, grpo(b, std=False), weights='probability', alpha=.5), [.5 * f, -.5 * f], atol=2e-4)


@functools.cache
def forest(kind, seed):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  draw = lambda one: [one() for _ in f.parent]
  more = dict(answer=draw(lambda: rng.choice('aab')), other=draw(lambda: rng.choice('abcd')),
              n_tokens=draw(lambda: rng.randint(1, 3)), logp=draw(lambda: -rng.expovariate(2.)))
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  more['adv'] = [rng.gauss(0., 1.) if s in live else 0. for s in range(len(f.parent))]
  batch = f.batch(toy, label={k: more[k] for k in ('answer', 'other')}, value=dict(adv=more['adv']), n_tokens=more['n_tokens'],
                  n_obs=1, logp=more['logp'])
  return f, more, batch


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(), dict(alpha=.5, answer='other'), dict(shape='exp', alpha=2.), dict(shape='focal', alpha=.5, power=2.),
    dict(weights='probability', alpha=.25), dict(weights='probability', shape='exp', answer='other'),
    dict(weights='probability', shape='focal', power=3.)], ids=str)
def test_twin(kind, seed, mode):
  f, more, batch = forest(kind, seed)
  np.testing.assert_allclose(forests.run(behind, batch, **mode), twin(f, more, **mode), rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize('mode', [dict(weights='votes'), dict(shape='square')], ids=str)
def test_no_such_mode(mode):
  b = toy.batch([-1, -1], task=[1, 0], label=dict(answer=['a', 'b']))
  with pytest.raises(ValueError, match=next(iter(mode.values()))):
    seed_grpo(b, grpo(b), **mode)
