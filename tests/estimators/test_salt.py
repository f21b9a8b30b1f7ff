"""SALT (arXiv:2510.20022, as GRAFT restates it in its appendix A.3) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.salt import salt


def of_episodes(returns, base, std, ddof, eps):
  """The advantage of each episode of a prompt."""
  mean, count = sum(returns) / len(returns), len(returns)
  if base == 'rloo':
    return [r - (sum(returns) - r) / (count - 1) if count > 1 else 0. for r in returns]
  spread = math.sqrt(sum((r - mean) ** 2 for r in returns) / max(count - ddof, 1)) + eps
  return [(r - mean) / (spread if std else 1.) for r in returns]


def twin(f, more, *, channel='task', base='grpo', std=True, ddof=1, eps=1e-6, visits='each', mix=1.):
  edge = list(zip(f.group, f.state, more['action'], more['next'], strict=True))
  own, at = [], {}   # (path, A); edge -> A of every visit
  for found in forests.episodes(f, channel).values():
    for (steps, _), a in zip(found, of_episodes([r for _, r in found], base, std, ddof, eps), strict=True):
      own.append((steps, a))
      seen = [edge[s] for s in steps]
      for e in seen if visits == 'each' else set(seen):
        at.setdefault(e, []).append(a)
  live = {s for steps, _ in own for s in steps}
  return [mix * sum(at[edge[i]]) / len(at[edge[i]]) + (1 - mix) * mean if i in live else 0.
          for i, mean in enumerate(forests.over_paths(f, own))]


# rewards 1 0 0, A = 1.1547 -.5773 -.5773; the first edge is in all three, the next in the first two, the others in one
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, 4, -1, 6], task=[0, 0, 1, 0, 0, 0, 0, 0], label=dict(
    state=list('01201201'), action=list('abcabdad'), next=list('12312415')))
# the first rollout takes one edge twice, the second once, the third another
TWICE = dict(parent=[-1, 0, -1, -1], task=[0, 1, 0, 0], label=dict(state=list('aaaa'), action=list('xxxy'), next=list('aaab')))
A, B = 1.154701, -.577350


@pytest.mark.parametrize('batch, mode, expected', [
    (EXAMPLE, dict(), [0, .288675, A, 0, .288675, B, 0, B]),
    (EXAMPLE, dict(mix=.5), [A / 2, .721688, A, B / 2, -.144338, B, B / 2, B]),
    (EXAMPLE, dict(base='rloo'), [0, .25, 1, 0, .25, -.5, 0, -.5]),      # A = 1 -.5 -.5
    (TWICE, dict(), [.577350, .577350, .577350, B]),                     # (2 A + B) / 3
    (TWICE, dict(visits='once'), [.288675, .288675, .288675, B]),        # (A + B) / 2
])
def test_worked_example(batch, mode, expected):
  np.testing.assert_allclose(forests.run(salt, toy.batch(**batch), **mode), expected, atol=5e-6)


@functools.cache
def forest(kind, seed):
  f, rng = getattr(forests, kind)(seed), random.Random(seed)
  more = dict(action=[rng.choice('xxy') for _ in f.parent], next=[rng.choice('aab') for _ in f.parent])
  f = f._replace(state=[rng.choice('aab') for _ in f.parent])    # few states: edges that come back within an episode
  return f, more, f.batch(toy, label=more)


@pytest.mark.parametrize('kind', ['chains', 'trees'])
@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('mode', [
    dict(), dict(visits='once'), dict(base='rloo', mix=.25), dict(std=False, visits='once', mix=.5), dict(ddof=0, eps=.125),
    dict(channel='format'), dict(channel='format', base='rloo', visits='once')], ids=str)
def test_twin(kind, seed, mode):
  f, more, batch = forest(kind, seed)
  np.testing.assert_allclose(forests.run(salt, batch, **mode), twin(f, more, **mode), rtol=2e-5, atol=5e-6)


@pytest.mark.parametrize('mode', [dict(base='mean'), dict(visits='twice')], ids=str)
def test_no_such_mode(mode):
  with pytest.raises(ValueError, match=next(iter(mode.values()))):
    salt(toy.batch(**EXAMPLE), **mode)
