"""SPAE's advantage (arXiv:2601.03823) against its worked example and an independent twin.

The paper leaves open over which steps the rises are made min-max: here over all credited steps of the batch, as in the twin.
"""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.spae import spae


def twin(f, potential, n_tokens, *, channel='task', xi=.5, alpha=.5, saturation=.9, whiten=True):
  groups = forests.episodes(f, channel).values()
  found = [(steps, ret - sum(r for _, r in group) / len(group)) for group in groups for steps, ret in group]
  base, live = forests.over_paths(f, found), sorted({s for steps, _ in found for s in steps})
  rise = {s: potential[s] - potential[f.parent[s]] if f.parent[s] >= 0 else 0. for s in live}
  low, high = min(rise.values()), max(rise.values())
  lift = {s: math.exp((x - low) / (high - low)) if high > low else 1. for s, x in rise.items()}
  usual = sum(lift.values()) / len(lift)
  out = {}
  for s in live:
    saturated = sum(potential[t] > saturation for t in forests.path(f.parent, s)[:-1])
    out[s] = base[s] * (1 - alpha * (1 - math.exp(-saturated))) + xi * (lift[s] - usual)
  if whiten:                             # each step as often as it has trained tokens
    count = sum(n_tokens[s] for s in live)
    mean = sum(n_tokens[s] * x for s, x in out.items()) / count
    std = math.sqrt(sum(n_tokens[s] * (x - mean) ** 2 for s, x in out.items()) / (count - 1))
    out = {s: (x - mean) / std for s, x in out.items()}
  return np.array([out.get(s, 0.) for s in range(len(f.parent))])


def close(batch, got, want, **tolerance):
  """`got` may stand on steps or on tokens."""
  if np.ndim(got) == 2:
    want = np.where(batch.tokens.mask, np.asarray(want)[np.asarray(batch.tokens.node)], 0.)
  np.testing.assert_allclose(got, want, **tolerance)


def two(potential):
  """Two rollouts with the same potentials, returns 1 and 0: group advantages .5 and -.5."""
  n = len(potential)
  return toy.batch([-1, *range(n - 1), -1, *range(n, 2 * n - 1)], task=[0] * (n - 1) + [1] + [0] * n,
                   value=dict(potential=potential * 2))


def test_worked_example():
  # rises 0 .05 .9572 .0437, g = -.4546 -.401 1.2636 -.408; nothing is saturated before the last step
  batch, g = two([-.12, -.07, .8872, .9309]), np.array([-.4546, -.401, 1.2636, -.408])
  close(batch, forests.run(spae, batch, whiten=False), [.2727, .2995, 1.1318, .296, *(-.5 + .5 * g)], atol=1.1e-4)


def test_saturated_steps_damp_what_follows():
  # two steps above .9: f = 1, 1 - .5 (1 - e^-1) = .68394 twice, 1 - .5 (1 - e^-2) = .56767; a negative advantage is damped too
  batch = two([.95, .2, .95, .3])
  half = np.array([.5, .34197, .34197, .283834])
  close(batch, forests.run(spae, batch, xi=0., whiten=False), [*half, *-half], atol=1e-5)
  close(batch, forests.run(spae, batch, xi=0., saturation=.96, whiten=False), [.5] * 4 + [-.5] * 4, atol=1e-5)


def test_no_rise_anywhere():
  batch = two([.25] * 3)                 # min-max would be 0 / 0: no bonus
  close(batch, forests.run(spae, batch, whiten=False), [.5] * 3 + [-.5] * 3, atol=1e-6)


@functools.cache
def forest(grown, seed):
  f, rng = getattr(forests, grown)(seed), random.Random(seed)
  potential = [rng.choice([rng.uniform(-1., .85), rng.uniform(.92, 1.)]) for _ in f.parent]
  n_tokens = [1 + (i * 7 + seed) % 3 for i in range(len(f.parent))]
  return f, f.batch(toy, n_tokens=n_tokens, n_obs=1, value=dict(potential=potential)), potential, n_tokens


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 2)])
@pytest.mark.parametrize('mode', [
    dict(whiten=False), dict(), dict(xi=.25, alpha=1., whiten=False), dict(saturation=.5, whiten=False),
    dict(channel='format'), dict(channel='format', alpha=.75, saturation=.95, whiten=False)], ids=str)
def test_twin(grown, seed, mode):
  f, batch, potential, n_tokens = forest(grown, seed)
  close(batch, forests.run(spae, batch, **mode), twin(f, potential, n_tokens, **mode), rtol=2e-5, atol=1e-5)
