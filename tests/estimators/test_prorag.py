"""ProRAG's two grains (lilinwz/ProRAG@c7a64110 `prorag/rl/trainer.py`) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.prorag import prorag


def twin(f, count, *, channel='task', process='prm', beta=.3, ddof=1, eps=1e-4):
  outcome, part = [], [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    mean = sum(r for _, r in found) / len(found)
    square = sum((r - mean) ** 2 for _, r in found)
    for steps, r in found:
      outcome.append((steps, (r - mean) / (math.sqrt(square / (len(found) - ddof)) + eps) if len(found) > 1 else 0.))
    live = {s for steps, _ in found for s in steps}                # a shared step's tokens count once: they are trained once
    scored = [s for s in live if f.judged.get(process, [True] * len(f.parent))[s]]
    pool = [f.reward[process][s] for s in scored for _ in range(count[s])]
    mu = sum(pool) / max(len(pool), 1)
    sigma = math.sqrt(sum((x - mu) ** 2 for x in pool) / len(pool) + 1e-8) if len(pool) > 1 else 1.
    for s in scored:
      part[s] = (f.reward[process][s] - mu) / sigma
  return [a + beta * p for a, p in zip(forests.over_paths(f, outcome), part)]


# R = 3 1; the tokens' step scores .8 .8 .2 | .5 .5 .5: mean .55, population std .20616
EXAMPLE = dict(parent=[-1, 0, -1], n_tokens=[2, 1, 3], task=[0, 3, 1], prm=[.8, .2, .5])


@pytest.mark.parametrize('mode, expected', [
    (dict(), [1.0709, .1977, -.7798]), (dict(beta=0.), [.70706, .70706, -.70706]),
    (dict(beta=.5), [1.3134, -.1418, -.8283]), (dict(ddof=0), [1.3637, .4906, -1.0727])], ids=str)
def test_worked_example(mode, expected):
  # .70706 + .3 x 1.21268, .70706 - .3 x 1.69775, -.70706 - .3 x .24254; ddof 0: .99990 in place of .70706
  np.testing.assert_allclose(forests.run(prorag, toy.batch(**EXAMPLE), **mode), expected, atol=1e-4)


def test_one_token_and_equal_scores():
  one = toy.batch([-1], task=[3.], prm=[.7])                                    # sigma 1, and it is its own mean
  np.testing.assert_array_equal(forests.run(prorag, one), [0])
  equal = toy.batch([-1, 0, -1], n_tokens=[3, 1, 2], task=[0, 1, 1], prm=[.3, .3, .3])
  np.testing.assert_array_equal(forests.run(prorag, equal), [0, 0, 0])
  alone = toy.batch([-1, 0], n_tokens=[1, 3], task=[0, 1], prm=[1., 0.])        # one rollout: its steps against each other
  np.testing.assert_allclose(forests.run(prorag, alone, beta=1.), [1.73205, -.57735], atol=1e-4)


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  count = [rng.randint(1, 3) for _ in f.parent]
  f.reward['prm'] = [.3 if g == 2 else rng.uniform(-1, 1) for g in f.group]     # prompt 2: equal scores
  f.reward['sure'] = [rng.choice([0., 1.]) for _ in f.parent]
  f.judged['prm'] = [rng.random() > .1 for _ in f.parent]
  return f, f.batch(toy, n_tokens=count), count


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(beta=.5, ddof=0), dict(process='sure', eps=.125), dict(channel='format', beta=1.), dict(beta=0.)], ids=str)
def test_twin(make, seed, mode):
  f, batch, count = forest(make, seed)
  np.testing.assert_allclose(forests.run(prorag, batch, **mode), twin(f, count, **mode), rtol=2e-5, atol=5e-6)
