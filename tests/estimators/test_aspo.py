"""ASPO ("Understanding Tool-Integrated Reasoning", eq. 2; bounds as in a public fork: k |A|) and an independent twin."""

import functools
import inspect
import random

import forests
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.aspo import aspo


def behind(batch, adv, **mode):
  """The modulator as `forests.run` takes it: what it modulates stands in `value['adv']`."""
  return aspo(batch, batch.nodes.value['adv'], **mode)


behind.__signature__ = inspect.signature(functools.partial(aspo, adv=None))


def twin(f, more, *, code='tool', channel='task', delta=-2., bound=.7):
  size, pairs = more['n_tokens'], []
  for found in forests.episodes(f, channel).values():
    held = {}   # episode -> (tokens before its first call, tokens)
    for i, (steps, ret) in enumerate(found):
      calls = [at for at, s in enumerate(steps) if more[code][s] > 0]
      if ret > 0 and calls:
        held[i] = sum(size[s] for s in steps[:calls[0]]), sum(size[s] for s in steps)
    for i, (steps, _) in enumerate(found):
      bias = 0.
      if i in held:
        early, length = (sum(pair[k] for pair in held.values()) / len(held) for k in (0, 1))
        most = bound * abs(more['adv'][steps[-1]])
        bias = min(max(delta * (held[i][0] - early) / length, -most), most)
      pairs.append((steps, bias))
  return [a + b for a, b in zip(more['adv'], forests.over_paths(f, pairs), strict=True)]


# two right answers of ten tokens with a call after one and after three (the paper's numbers / 100), a third right without code,
# a fourth wrong with code
EXAMPLE = dict(parent=[-1, 0, -1, 2, -1, -1], n_tokens=[1, 9, 3, 7, 5, 6], task=[0, 1, 0, 1, 1, 0],
               label=dict(tool=[0, 1, 0, 2, 0, 1]))


@pytest.mark.parametrize('mode, adv, expected', [
    (dict(), [1, 1, 1, 1, 1, -1], [1.2, 1.2, .8, .8, 1, -1]),
    (dict(delta=-2.5, bound=.9), [1, 1, 1, 1, 1, -1], [1.25, 1.25, .75, .75, 1, -1]),
    (dict(), [.1, .1, .1, .1, .1, -1], [.17, .17, .03, .03, .1, -1]),           # bounds .07: the sign of A stays
    (dict(), [-.1, -.1, -.1, -.1, 1, -1], [-.03, -.03, -.17, -.17, 1, -1]),     # A < 0: the bounds do not invert
    (dict(), [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]),                           # all are right: nothing is added
], ids=str)
def test_worked_example(mode, adv, expected):
  for n_obs in (0, 2):    # an observation is no token of the answer
    got = aspo(toy.batch(**EXAMPLE, n_obs=n_obs), jnp.asarray(adv, jnp.float32), **mode)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_a_shared_step_has_the_mean():
  # 0 goes on to 1, which calls, and to 2, which calls a step later, at 3: p = 2 6, L = 8 8, bias .5 and -.5
  b = toy.batch([-1, 0, 0, 2], n_tokens=[2, 6, 4, 2], task=[0, 1, 0, 2], label=dict(tool=[0, 1, 0, 1]))
  np.testing.assert_allclose(aspo(b, jnp.asarray([.6, .2, 1, 1], jnp.float32)), [.42, .34, .5, .5], atol=1e-6)


@functools.cache
def forest(kind, seed, channel):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  draw = lambda one: [one() for _ in f.parent]
  more = dict(tool=draw(lambda: rng.choice([-1, 0, 0, 1, 2])), python=draw(lambda: rng.choice([0, 0, 0, 1])),
              n_tokens=draw(lambda: rng.randint(1, 4)))
  live = {s for found in forests.episodes(f, channel).values() for steps, _ in found for s in steps}
  more['adv'] = [rng.gauss(0., 1.) if s in live else 0. for s in range(len(f.parent))]
  n_obs = draw(lambda: rng.randint(0, 2))
  return f, more, f.batch(toy, label={k: more[k] for k in ('tool', 'python')}, value=dict(adv=more['adv']),
                          n_tokens=more['n_tokens'], n_obs=n_obs)


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(), dict(delta=-2.5, bound=.9), dict(bound=.1), dict(code='python'), dict(channel='format', delta=-.5)], ids=str)
def test_twin(kind, seed, mode):
  f, more, batch = forest(kind, seed, mode.get('channel', 'task'))
  np.testing.assert_allclose(forests.run(behind, batch, **mode), twin(f, more, **mode), rtol=2e-5, atol=5e-6)
