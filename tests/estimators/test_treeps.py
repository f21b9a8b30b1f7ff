"""TreePS-RAG (arXiv:2601.06922): values by hand, three ways to an advantage, and a slow twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.treeps import treeps


def twin(f, *, channel='task', mode='td', ddof=0, eps=1e-6):
  """V of a step as the mean over the leaves below it, found by going through all leaves."""
  out = [0.] * len(f.parent)
  for group, found in forests.episodes(f, channel).items():
    mine = [i for i in range(len(f.parent)) if f.group[i] == group]
    v = {i: [r for steps, r in found if i in steps] for i in mine}
    v = {i: sum(rs) / len(rs) for i, rs in v.items() if rs}
    root = sum(r for _, r in found) / len(found)
    for i in v:
      above = v[f.parent[i]] if f.parent[i] >= 0 else root
      near = [v[j] for j in v if f.parent[j] == f.parent[i]]
      mean = sum(near) / len(near)
      std = math.sqrt(sum((x - mean) ** 2 for x in near) / max(len(near) - ddof, 1))
      out[i] = dict(td=v[i] - above, sib=(v[i] - mean) / (std + eps), mix=2 * v[i] - root - above)[mode]
  return out


# A -> (1, 0), B -> (0, 0): V of the question .25, of A .5, of B 0
TREE = dict(parent=[-1, 0, 0, -1, 3, 3], task=[0, 1, 0, 0, 0, 0])


@pytest.mark.parametrize('mode, expected', [
    ('td', [.25, .5, -.5, -.25, 0, 0]), ('sib', [1, 1, -1, -1, 0, 0]), ('mix', [.5, 1.25, -.75, -.5, -.25, -.25])])
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(treeps, toy.batch(**TREE), mode=mode), expected, atol=1e-5)


def test_deviation_of_siblings():
  # three first steps with 1 0 0: mean 1/3, population deviation .4714, sample .5774
  batch = toy.batch([-1] * 3, task=[1, 0, 0])
  np.testing.assert_allclose(forests.run(treeps, batch, mode='sib'), [1.4142, -.7071, -.7071], atol=1e-4)
  np.testing.assert_allclose(forests.run(treeps, batch, mode='sib', ddof=1), [1.1547, -.5774, -.5774], atol=1e-4)


@pytest.mark.parametrize('mode', ['td', 'sib', 'mix'])
def test_equal_leaves_give_exactly_nothing(mode):
  # .3 is no binary fraction: a mean of seven of them need not be .3
  batch = toy.batch([-1, 0, 0, 0, -1, 4, 4, 4, 4], task=[0, .3, .3, .3, 0, .3, .3, .3, .3])
  np.testing.assert_array_equal(forests.run(treeps, batch, mode=mode), [0] * 9)


def test_a_chain_has_its_credit_on_the_first_step():
  batch = toy.batch([-1, 0, 1, -1, 3, 4], task=[0, 0, 1, 0, 0, 0])
  np.testing.assert_allclose(forests.run(treeps, batch), [.5, 0, 0, -.5, 0, 0], atol=1e-6)


def test_cut_off_is_a_leaf_and_a_failed_episode_is_not():
  batch = toy.batch([-1] * 4, end=[1, 2, 3, 0], task=[1, 0, 9, 9])
  np.testing.assert_allclose(forests.run(treeps, batch), [.5, -.5, 0, 0], atol=1e-6)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('trees', 0), ('trees', 1), ('trees', 2), ('chains', 3)])
@pytest.mark.parametrize('mode', [dict(), dict(mode='mix'), dict(mode='sib', eps=.25), dict(mode='sib', ddof=1, eps=.125),
                                  dict(channel='format')], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(treeps, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)


def test_no_such_mode():
  with pytest.raises(ValueError, match="mode is 'td', 'sib' or 'mix', not 'value'"):
    treeps(toy.batch([-1], task=1), mode='value')
