"""EMPG (arXiv:2509.09265; WillDreamer/ARLArena@dc1da9f7 `compute_EMPG_advantage`) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.empg import empg


@functools.wraps(empg)
def modulated(batch, adv=None, **mode):
  del adv
  return empg(batch, batch.nodes.value['adv'], **mode)


def twin(f, batch, adv, *, k=1., k_future=1., zeta=.1):
  entropy = np.asarray(batch.tokens.stream['entropy']).tolist()
  live = sorted({s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps})
  said = {s: [] for s in live}
  for sequence in forests.sequences(batch):
    for r, t, s, trained in sequence:
      if trained and s in said:
        said[s].append(entropy[r][t])
  h = {s: sum(x) / len(x) for s, x in said.items()}
  least, most = min(h.values()), max(h.values())
  h = {s: (x - least) / (most - least + 1e-8) for s, x in h.items()}
  mean = sum(math.exp(-k * x) for x in h.values()) / len(h)
  new = {}
  for s in live:
    ahead = [math.exp(-k_future * h[c]) for c in live if f.parent[c] == s]      # of a branching: the mean over next steps
    new[s] = adv[s] * math.exp(-k * h[s]) / (mean + 1e-8) + (zeta * sum(ahead) / len(ahead) if ahead else 0.)
  centre = sum(new.values()) / len(new)
  return [new[s] - centre if s in new else 0. for s in range(len(f.parent))]


# H = .2 .8 .5 | .2 1.2, A = 1 1 1 | -1 -1
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3], task=0, value=dict(adv=[1, 1, 1, -1, -1]), stream=dict(entropy=[.2, .8, .5, .2, 1.2]))


@pytest.mark.parametrize('mode, expected', [
    (dict(), [1.1368, .5392, .7276, -1.6154, -.7881]),
    # A g = 1.3671 .7503 1.0127 -1.3671 -.5029, their mean .2520 taken off
    (dict(zeta=0.), [1.1150, .4982, .7607, -1.6191, -.7549]),
    # g = 1; + .1 x .5488 .7408 - .3679 -, mean .23315
    (dict(k=0.), [.8217, .8409, .7669, -1.1964, -1.2331])], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(modulated, toy.batch(**EXAMPLE), **mode), expected, atol=1e-4)


def test_the_mean_over_the_tokens_of_a_step():
  # H = (.1 + .3) / 2, .8, .5 | .2, (.9 + 1.5) / 2: the example again
  t = dict(n_tokens=[2, 1, 1, 1, 2], n_obs=[0, 1, 0, 1, 0], stream=dict(entropy=[[.1, .3, 9, .8, .5], [9, .2, .9, 1.5, 0]]))
  batch = toy.batch(**(EXAMPLE | t))
  np.testing.assert_allclose(forests.run(modulated, batch), [1.1368, .5392, .7276, -1.6154, -.7881], atol=1e-4)


def test_equal_entropies_and_dead_ends():
  # H~ = 0, so g = f = 1; the abandoned and the failed branch are no next step, and their entropies count nowhere
  batch = toy.batch([-1, 0, 0, -1, -1], end=[0, 1, 0, 1, 3], task=0, value=dict(adv=[1, 1, 0, -1, 0]),
                    stream=dict(entropy=[.7, .7, 5, .7, 0]))
  np.testing.assert_allclose(forests.run(modulated, batch), [1.1 - 1.1 / 3, 1 - 1.1 / 3, 0, -1 - 1.1 / 3, 0], atol=1e-5)


def test_unknown_mode():
  with pytest.raises(ValueError):
    modulated(toy.batch(**EXAMPLE), centre='other')


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  live = {s for found in forests.episodes(f, 'task').values() for steps, _ in found for s in steps}
  adv = [rng.gauss(0, 1) if s in live else 0. for s in range(len(f.parent))]
  batch = f.batch(toy, n_tokens=[rng.randint(1, 3) for _ in adv], n_obs=[rng.randint(0, 1) for _ in adv], value=dict(adv=adv))
  entropy = np.random.default_rng(seed).uniform(0, 2, batch.tokens.node.shape)
  return f, forests.with_stream(batch, entropy=entropy), adv


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(zeta=.05), dict(k=2., k_future=.5, zeta=.5), dict(zeta=0.)], ids=str)
def test_twin(make, seed, mode):
  f, batch, adv = forest(make, seed)
  np.testing.assert_allclose(forests.run(modulated, batch, **mode), twin(f, batch, adv, **mode), rtol=2e-5, atol=5e-6)
