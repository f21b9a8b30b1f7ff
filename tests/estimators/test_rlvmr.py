"""RLVMR's advantages (arXiv:2507.22844; rhyang2021/CogRouter@b9978adc `rlvmr/core_rlvmr.py`) and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.rlvmr import rlvmr


def normalise(pool, x, std, ddof, eps):
  mean = sum(pool) / len(pool)
  return (x - mean) / (math.sqrt(sum((p - mean) ** 2 for p in pool) / (len(pool) - ddof)) + eps if std else 1.)


def twin(f, tag, *, channel='task', meta='meta', mode='released', weight=.5, alpha=.5, std=True, ddof=1, eps=1e-6):
  """None where nobody says what comes out: the only step of the only rollout of a prompt, as released."""
  out, found = [0.] * len(f.parent), forests.episodes(f, channel)
  live = sorted({s for group in found.values() for steps, _ in group for s in steps})
  same = lambda s, other: tag[s] == tag[other] and (mode == 'paper' or f.group[s] == f.group[other])
  tagged = {}
  for s in live:
    x, pool = f.reward[meta][s], [f.reward[meta][o] for o in live if same(s, o)]
    tagged[s] = x if len(pool) == 1 else normalise(pool, x, std, ddof, eps)
  score = forests.over_paths(f, [e for group in found.values() for e in group])
  paths = []
  for group in found.values():
    scores = [r for _, r in group]
    paths += [(steps, normalise(scores, r, std, ddof, eps) if len(scores) > 1 else 0.) for steps, r in group]
  trajectory = forests.over_paths(f, paths)
  for s in live:
    if mode == 'paper':
      out[s] = alpha * trajectory[s] + (1 - alpha) * tagged[s]
    else:     # an episode counts once for each of its steps
      pool = [score[o] for o in live if f.group[o] == f.group[s]]
      out[s] = None if len(pool) == 1 else normalise(pool, score[s], std, ddof, eps) + weight * tagged[s]
  return out


# rollouts of one step with R = 1 0 0 1; three explored, paid 1 1 0, and one planned, unpaid
EXAMPLE = dict(parent=[-1] * 4, task=[1, 0, 0, 1], meta=[1, 1, 0, 0], label=dict(tag=['explore'] * 3 + ['planning']))


@pytest.mark.parametrize('mode, expected', [
    (dict(mode='paper', alpha=1.), [.8660, -.8660, -.8660, .8660]),                     # A_traj
    (dict(mode='paper', alpha=.5), [.7217, -.1443, -1.0104, .4330]),                    # (.8660 + .5774) / 2 ...
    (dict(mode='released'), [1.1547, -.5774, -1.4434, .8660]),                          # .8660 + .5 x .5774 ...
    (dict(mode='released', weight=1.), [1.4434, -.2887, -2.0207, .8660]),
    (dict(mode='released', std=False), [.6667, -.3333, -.8333, .5]),
    (dict(mode='paper', alpha=.5, std=False), [.4167, -.0833, -.5833, .25])], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(rlvmr, toy.batch(**EXAMPLE), **mode), expected, atol=1e-4)


def test_pools():
  # released: rollouts 1 1 | 0 count once a step (mean 2/3, std .57735), and a tag seen once in its prompt is worth its reward
  batch = toy.batch([-1, 0, -1, -1, -1], group=[0, 0, 0, 1, 1], task=[0, 1, 0, 0, 0], meta=[0, 1, 1, .25, .75],
                    label=dict(tag=[1, 2, 2, 1, 1]))
  np.testing.assert_allclose(forests.run(rlvmr, batch, weight=1.), [.57735, .57735, -1.154701, -.707105, .707105], atol=1e-5)
  # paper: the two rollouts count once each (.70711, -.70711); tags over the batch: 0 .25 .75 (mean 1/3, std .381881), 1 1
  paper = forests.run(rlvmr, batch, mode='paper')
  np.testing.assert_allclose(paper, [.35355 - .43644, .35355, -.35355, -.10911, .54555], atol=1e-4)


def test_unknown_mode():
  with pytest.raises(ValueError):
    rlvmr(toy.batch(**EXAMPLE), mode='other')


@functools.cache
def forest(make, seed):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  tag, kind = ([rng.randrange(4) for _ in f.parent] for _ in range(2))
  f.reward['meta'] = [rng.choice([0., 0., 1.]) for _ in f.parent]
  f.reward['other'] = [rng.uniform(-1, 1) for _ in f.parent]
  return f, f.batch(toy, label=dict(tag=tag, kind=kind)), tag, kind


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=False, weight=1.), dict(ddof=0, eps=.125, meta='other'), dict(channel='format', tag='kind'),
    dict(mode='paper'), dict(mode='paper', alpha=.25, ddof=0, eps=.125), dict(mode='paper', std=False, meta='other'),
    dict(mode='paper', channel='format', tag='kind')], ids=str)
def test_twin(make, seed, mode):
  f, batch, tag, kind = forest(make, seed)
  got = forests.run(rlvmr, batch, **mode)
  want = twin(f, kind if 'tag' in mode else tag, **{k: x for k, x in mode.items() if k != 'tag'})
  said = [i for i, x in enumerate(want) if x is not None]
  np.testing.assert_allclose(got[said], [want[i] for i in said], rtol=2e-5, atol=5e-6)
