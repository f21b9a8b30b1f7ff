"""OTC-PO's reward (arXiv:2504.14870, from two notes and a port that agree) and an independent twin."""

import functools
import inspect
import math
import random

import numpy as np
import pytest

from rlx import toy, tree
from rlx.transforms import otc as module
from rlx.transforms.otc import otc
from tests.estimators import forests


def written(batch, **mode):
  """The column as `forests.run` takes it, with the returns an estimator reads from it and where."""
  into = mode.get('into', 'otc')
  nodes = otc(batch, **mode).nodes
  return nodes.reward[into], tree.returns(nodes, into)[1]


written.__signature__ = inspect.signature(otc)


def of_tools(m, n, mode, c):
  if mode == 'ppo' or n == 0:
    return 1. if m == 0 else math.cos(m * math.pi / (2 * m + c))
  return math.sin(2 * n * m / (m + n) * math.pi / (2 * n))


def twin(f, label, *, channel='task', tool='tool', mode='grpo', alpha=1., c=1., into='otc'):
  del into
  reward, on = [0.] * len(f.parent), [False] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    calls = [sum(label[tool][s] > 0 for s in steps) for steps, _ in found]
    least = min((m for m, (_, ret) in zip(calls, found, strict=True) if ret > 0), default=0)
    for (steps, ret), m in zip(found, calls, strict=True):
      reward[steps[-1]] = alpha * of_tools(m, least, mode, c) * ret if ret > 0 else 0.
      on[steps[-1]] = True
  return reward, on


def rollouts(calls, right):
  """One chain for each number of calls, with a last step that answers."""
  parent, tool, task = [], [], []
  for m, r in zip(calls, right, strict=True):
    parent += [-1] + list(range(len(parent), len(parent) + m))
    tool += [1] * m + [0]
    task += [0] * m + [r]
  return toy.batch(parent, task=task, label=dict(tool=tool))


@pytest.mark.parametrize('calls, right, mode, expected', [
    ([2, 3, 4, 0, 1], [1, 1, 1, 0, 0], dict(), [1, .951057, .866025, 0, 0]),         # n = 2, and wrong is 0
    ([0, 1, 2, 3], [1] * 4, dict(), [1, .5, .309017, .222521]),                      # n = 0
    ([1, 2, 4], [1, 1, 1], dict(alpha=2.), [2, 1.732051, 1.175571]),                 # n = 1: sin(2 pi / 3), sin(4 pi / 5)
    ([2, 1, 3, 0], [1, 0, 1, 0], dict(), [1, 0, .951057, 0]),                        # n is the least of those that are right
    ([0, 1, 2, 3], [1] * 4, dict(mode='ppo'), [1, .5, .309017, .222521]),
    ([2, 3, 1], [1, 1, 0], dict(mode='ppo', c=2.), [.5, .382683, 0]),                # cos(2 pi / 6), cos(3 pi / 8)
    ([0, 1, 2], [0, 0, 0], dict(), [0, 0, 0]),                                       # none is right
], ids=str)
def test_worked_example(calls, right, mode, expected):
  b = rollouts(calls, right)
  reward, _ = forests.run(written, b, **mode)
  last = np.asarray(b.nodes.end) == 1
  np.testing.assert_allclose(reward[last], expected, atol=2e-6)
  assert not reward[~last].any()


def test_the_curve_of_the_notes():
  # the twin at n = 2; a right episode has at least n calls, so the first two numbers never come up in a batch
  np.testing.assert_allclose([of_tools(m, 2, 'grpo', 1.) for m in range(5)], [0, .866, 1, .951, .866], atol=5e-4)


@functools.cache
def forest(kind, seed):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  label = {k: [rng.choice(of) for _ in f.parent] for k, of in dict(tool=[-1, 0, 1, 1, 2], search=[0, 0, 1]).items()}
  return f, label, f.batch(toy, label=label)


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(), dict(mode='ppo', c=2.), dict(tool='search', alpha=.5, c=.5), dict(channel='format', into='task')], ids=str)
def test_twin(kind, seed, mode):
  f, label, batch = forest(kind, seed)
  reward, on = forests.run(written, batch, **mode)
  want, judged = twin(f, label, **mode)
  np.testing.assert_allclose(reward, want, rtol=2e-5, atol=5e-6)
  np.testing.assert_array_equal(on, judged)     # an episode without a verdict has none here either


def test_what_it_says():
  assert module.writes == ('reward/otc',)
  b = rollouts([0, 1], [1, 0])
  got = otc(b)
  assert set(got.nodes.reward) == {'task', 'otc'} and got.tokens is b.tokens
  assert got.nodes.reward['task'] is b.nodes.reward['task']
  with pytest.raises(ValueError, match='dapo'):
    otc(b, mode='dapo')
