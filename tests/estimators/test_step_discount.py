"""Discounted step returns against all steps (vanzll/verl-agent@d0b97244 `compute_step_discounted_returns`): hand and twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.step_discount import step_discount


def twin(f, *, channel='task', gamma=.95, pool='prompt', std=True, ddof=1, eps=1e-6):
  live = sorted({s for found in forests.episodes(f, channel).values() for steps, _ in found for s in steps})
  back = {}
  for s in reversed(live):   # children stand behind their parents; several next steps count by their mean
    after = [back[c] for c in live if f.parent[c] == s]
    back[s] = f.reward[channel][s] + gamma * (sum(after) / len(after) if after else 0.)
  out = [0.] * len(f.parent)
  for s in live:
    others = [back[o] for o in live if pool == 'batch' or f.group[o] == f.group[s]]
    if len(others) > 1:
      mean = sum(others) / len(others)
      spread = math.sqrt(sum((b - mean) ** 2 for b in others) / (len(others) - ddof))
      out[s] = (back[s] - mean) / (spread + eps if std else 1.)
  return out


# three rollouts, final rewards 1 0 0: step returns .9025 .95 1 | 0 0 | 0 0 (GiGPO's example, arXiv:2505.10978), mean .4075
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, -1, 5], task=[0, 0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize('pool', ['prompt', 'batch'])
@pytest.mark.parametrize('mode, expected', [
    (dict(std=False), [.495, .5425, .5925] + [-.4075] * 4),
    # squares .245025 .294306 .351056 and four of .166056: 1.554613; over 6 .259102 = .509021^2, over 7 .222088 = .471262^2
    (dict(), [.97245, 1.06577, 1.16400] + [-.80056] * 4),
    (dict(ddof=0), [1.05037, 1.15116, 1.25726] + [-.86470] * 4)], ids=str)
def test_by_hand(pool, mode, expected):
  np.testing.assert_allclose(forests.run(step_discount, toy.batch(**EXAMPLE), pool=pool, **mode), expected, atol=2e-5)


def test_pools():
  # two prompts of one step: alone in the prompt, two in the batch
  batch = toy.batch([-1, -1], group=[0, 1], task=[1, 0])
  np.testing.assert_array_equal(forests.run(step_discount, batch), [0, 0])
  np.testing.assert_allclose(forests.run(step_discount, batch, pool='batch'), [.7071, -.7071], atol=1e-4)


def test_branches_count_by_their_mean():
  # 0 has next steps 1 (return 1) and 2, whose next steps end at 1 and 0: G = .5 * 1 / 2 + .25 * .5 / 2; 5 was abandoned
  batch = toy.batch([-1, 0, 0, 2, 2, 0], task=[0, 1, 0, 1, 0, 9], end=[0, 1, 0, 1, 1, 0])
  g = np.array([.3125, 1, .25, 1, 0])   # 2: .5 * .5 = .25; 0: .5 * (1 + .25) / 2
  np.testing.assert_allclose(forests.run(step_discount, batch, gamma=.5, std=False), [*(g - .5125), 0], atol=1e-6)


def test_pool_is_one_of_two():
  with pytest.raises(ValueError, match='pool'):
    step_discount(toy.batch(**EXAMPLE), pool='turn')


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=False, gamma=.5), dict(ddof=0, gamma=1.), dict(pool='batch'), dict(pool='batch', std=False, eps=.125),
    dict(channel='format', gamma=.9, eps=.125), dict(channel='format', pool='batch', ddof=0)], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(step_discount, batch, **mode), twin(f, **mode), rtol=2e-5, atol=5e-6)
