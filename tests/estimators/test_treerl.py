"""TreeRL (THUDM/TreeRL@f0edbea6 `tree_node.py`, `parallel_mcts.py`) against its worked examples and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.treerl import treerl

QUESTION = -1


def twin(f, length, chosen=None, *, channel='task', centre='token', weight='sqrt', fill=True, mode='td_value'):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    total = sum(r for _, r in found)
    if len(found) < 2:
      continue   # nobody to compare with
    leaf = {steps[-1]: r - (total - r) / (len(found) - 1) for steps, r in found}
    below = {QUESTION: list(leaf)}
    for steps, _ in found:
      for s in steps:
        below.setdefault(s, []).append(steps[-1])
    steps = sorted(set(below) - {QUESTION})
    size = {s: length[s] if centre == 'token' else 1 for s in steps} | {QUESTION: 0 if centre == 'token' else 1}
    acc = {s: sum(leaf[x] for x in below[s]) for s in below}
    if centre is not None:
      mean = sum(acc[s] * size[s] for s in below) / sum(len(below[s]) * size[s] for s in below)
      acc = {s: a - mean * len(below[s]) for s, a in acc.items()}
    for s in below if weight is not None else ():
      count = sum(chosen is None or chosen[x] > 0 for x in below[s])
      if count:
        acc[s] /= math.sqrt(count) if weight == 'sqrt' else count
    value = {s: acc[s] / len(below[s]) for s in below}
    td = {}
    for s in steps:
      td[s] = value[s] - value[f.parent[s]]   # above a first step: the question's
      if fill and abs(td[s]) < 1e-8 and f.parent[s] != QUESTION:
        td[s] = td[f.parent[s]]
    for s in steps:
      ancestors = [QUESTION, *forests.path(f.parent, s)[:-1]]
      chain = sum(leaf[x] for x in below[s]) / len(below[s])
      out[s] = dict(td=td[s], td_value=td[s] + value[s], value=value[s], chain=chain, chain_td=td[s] + chain,
                    ancestors=sum(value[s] - value[a] for a in ancestors) / len(ancestors))[mode]
  return out


# a question with first steps 0 and 1; below 0 answers 1 0, below 1 answers 0 0; leave one out: 1 -1/3 | -1/3 -1/3
EXAMPLE = dict(parent=[-1, -1, 0, 0, 1, 1], task=[0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize('mode, expected', [
    (dict(weight=None), [.667, -.667, 1.667, -1, -.667, -.667]),
    (dict(weight=None, fill=False), [.667, -.667, 1.667, -1, -.333, -.333]),
    (dict(), [.471, -.471, 1.764, -.902, -.431, -.431]),
    # the rest by hand: V is +-.333 without a weight, +-.667 / 4 with 'all'; its leaves as they are
    (dict(weight='all'), [.3333, -.3333, 1.8333, -.8333, -.5, -.5]),
    (dict(weight=None, mode='td'), [.3333, -.3333, .6667, -.6667, -.3333, -.3333]),
    (dict(weight=None, mode='value'), [.3333, -.3333, 1, -.3333, -.3333, -.3333]),
    (dict(weight=None, centre=None, mode='chain'), [.3333, -.3333, 1, -.3333, -.3333, -.3333]),
    (dict(weight=None, centre=None, mode='chain_td'), [.6667, -.6667, 1.6667, -1, -.6667, -.6667]),
    # a leaf: the mean of V(leaf) - 0 and V(leaf) - V(step)
    (dict(weight=None, mode='ancestors', fill=False), [.3333, -.3333, .8333, -.5, -.1667, -.1667])], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(treerl, toy.batch(**EXAMPLE), **mode), expected, atol=6e-4)


@pytest.mark.parametrize('centre, expected', [
    # leave one out 1 -.5 | -.5, acc .5 1 -.5 -.5; tokens: (3 * .5 + 1 - .5 - .5) / (3 * 2 + 1 + 1 + 1) = 1 / 6
    ('token', [.0833, .8333, -.6667, -.6667]),
    # steps, the question is one with acc 0 and three leaves: .5 / (3 + 2 + 1 + 1 + 1) = 1 / 16
    ('step', [.1875, .9375, -.5625, -.5625]),
    (None, [.25, 1, -.5, -.5])], ids=str)
def test_centre(centre, expected):
  batch = toy.batch([-1, 0, 0, -1], task=[0, 1, 0, 0], n_tokens=[3, 1, 1, 1])
  np.testing.assert_allclose(forests.run(treerl, batch, centre=centre, weight=None, mode='value'), expected, atol=1e-4)


def test_fill_copies_along_the_path():
  # 0 -> 1 -> 2 returns 1, 3 returns 0: V is 1 1 1 -1; the zeros of 1 and 2 become the td of 0
  batch = toy.batch([-1, 0, 1, -1], task=[0, 0, 1, 0])
  how = dict(centre=None, weight=None, mode='td')
  np.testing.assert_allclose(forests.run(treerl, batch, **how), [1, 1, 1, -1], atol=1e-6)
  np.testing.assert_allclose(forests.run(treerl, batch, **how, fill=False), [1, 0, 0, -1], atol=1e-6)
  # a first step has nothing to copy; 1 copies its 0
  batch = toy.batch([-1, 0, 1, 1], task=[0, 0, 1, 0])
  np.testing.assert_allclose(forests.run(treerl, batch, **how), [0, 0, 1, -1], atol=1e-6)


def test_equal_leaves_are_no_difference():
  # leave one out of 1 | 0 0 0: 1 -1/3 -1/3 -1/3; the mean of k such leaves is one of them, whatever rounding says
  for k in range(3, 16):
    batch = toy.batch([-1, -1] + [1] * k, task=[1, 0] + [0] * k)
    got = forests.run(treerl, batch, centre=None, weight=None, mode='td')
    np.testing.assert_allclose(got, [1] + [-1 / k] * (k + 1), atol=1e-6)


def test_selected_leaves_weigh():
  # only 2 of the leaves 2 3 and none of 4 5 is selected: 0 is divided by sqrt(1), the question too, 1 is left as it is
  batch = toy.batch(**EXAMPLE, label=dict(selected=[0, 0, 1, 0, 0, 0]))
  got = forests.run(treerl, batch, centre=None, mode='value')
  np.testing.assert_allclose(got[[0, 2]], [.3333, 1], atol=1e-4)
  batch = toy.batch(**EXAMPLE, label=dict(kept=[0, 0, 1, 1, 1, 0]))
  got = forests.run(treerl, batch, centre=None, mode='value', select='kept', weight='all')
  np.testing.assert_allclose(got[:5], [.1667, -.3333, 1, -.3333, -.3333], atol=1e-4)


@pytest.mark.parametrize('wrong', [dict(mode='sum'), dict(centre='turn'), dict(weight='uniform')], ids=str)
def test_unknown_modes(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    treerl(toy.batch(**EXAMPLE), **wrong)


@functools.cache
def forest(make, seed, some):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  length = [rng.randint(1, 3) for _ in f.parent]
  chosen = [rng.randint(0, 1) for _ in f.parent] if some else None
  label = dict(selected=chosen) if some else {}
  batch = f.batch(toy, n_tokens=length, n_obs=[rng.randint(0, 1) for _ in f.parent], label=label)
  return f, length, chosen, batch


@pytest.mark.parametrize('make, seed, some', [
    ('chains', 0, False), ('trees', 1, False), ('trees', 2, True), ('trees', 3, True)])
@pytest.mark.parametrize('mode', [
    dict(), dict(centre='step', weight='all', mode='td'), dict(centre=None, weight=None, fill=False),
    dict(centre='step', mode='value', fill=False, channel='format'), dict(mode='ancestors', fill=False),
    dict(centre=None, weight='all', mode='chain', fill=False), dict(centre=None, mode='chain_td'),
    dict(channel='format', mode='td', fill=False)], ids=str)
def test_twin(make, seed, some, mode):
  f, length, chosen, batch = forest(make, seed, some)
  got, want = forests.run(treerl, batch, **mode), np.array(twin(f, length, chosen, **mode))
  if some:   # only steps with a selected leaf below them are trained, only these are compared
    reach = {s for found in forests.episodes(f, mode.get('channel', 'task')).values() for steps, _ in found
             if chosen[steps[-1]] for s in steps}
    got, want = got[sorted(reach)], want[sorted(reach)]
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=5e-6)
