"""GPG against arXiv:2504.02546 and its form in verl, and an independent twin."""

import functools

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.gpg import gpg


def twin(f, *, channel='task', count='scores', singleton='zero'):
  rows = []   # (path, return, return less the mean, episodes of its prompt)
  for found in forests.episodes(f, channel).values():
    mean = sum(r for _, r in found) / len(found)
    rows += [(steps, r, r - mean, len(found)) for steps, r in found]
  counted = [r if count == 'scores' else a for _, r, a, _ in rows]
  alpha = len(rows) / max(sum(x != 0 for x in counted), 1)
  return forests.over_paths(f, [(steps, alpha * (r if size == 1 and singleton == 'raw' else a)) for steps, r, a, size in rows])


# two prompts, R = 1 0 0 0 and 1 1: six episodes; three returns and four advantages are not 0
EXAMPLE = dict(parent=[-1] * 6, group=[0, 0, 0, 0, 1, 1], task=[1, 0, 0, 0, 1, 1])


@pytest.mark.parametrize('count, expected', [('scores', [1.5, -.5, -.5, -.5, 0, 0]),          # B / #nonzero = 6 / 3
                                             ('advantages', [1.125, -.375, -.375, -.375, 0, 0])])   # B / (B - M) = 6 / 4
def test_worked_example(count, expected):
  np.testing.assert_allclose(forests.run(gpg, toy.batch(**EXAMPLE), count=count), expected, atol=1e-6)


@pytest.mark.parametrize('count', ['scores', 'advantages'])
def test_nothing_to_count(count):
  # no return and no advantage differs from 0: no division by it
  np.testing.assert_array_equal(forests.run(gpg, toy.batch([-1, -1], task=[0, 0]), count=count), [0, 0])


def test_failed_and_abandoned_episodes_are_not_counted():
  # B = 2, of which one is not 0
  batch = toy.batch([-1] * 4, end=[1, 2, 3, 0], task=[1, 0, 9, 9])
  np.testing.assert_allclose(forests.run(gpg, batch), [1, -1, 0, 0], atol=1e-6)
  np.testing.assert_allclose(forests.run(gpg, batch, count='advantages'), [.5, -.5, 0, 0], atol=1e-6)


def test_singleton():
  # R = 1 0 and, alone, .5: alpha = 3 / 2 of both
  batch = toy.batch([-1] * 3, group=[0, 0, 1], task=[1, 0, .5])
  np.testing.assert_allclose(forests.run(gpg, batch), [.75, -.75, 0], atol=1e-6)
  np.testing.assert_allclose(forests.run(gpg, batch, singleton='raw'), [.75, -.75, .75], atol=1e-6)   # verl: mean 0


def test_tree():
  # leaves 2 3 5 return 1 0 1, mean 2/3, alpha 3/2: .5 -1 .5; a shared step has the mean of the leaves below it
  batch = toy.batch([-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, 1])
  np.testing.assert_allclose(forests.run(gpg, batch), [0, -.25, .5, -1, .5, .5], atol=1e-6)


@pytest.mark.parametrize('mode', [dict(count='best'), dict(singleton='best')], ids=str)
def test_no_such_mode(mode):
  with pytest.raises(ValueError, match='best'):
    gpg(toy.batch(**EXAMPLE), **mode)


@functools.cache
def forest(make, seed):
  f = getattr(forests, make)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('make, seed', [('chains', 0), ('chains', 1), ('trees', 2), ('trees', 3)])
@pytest.mark.parametrize('mode', [
    dict(), dict(count='advantages'), dict(singleton='raw'), dict(channel='format'),
    dict(channel='format', count='advantages')], ids=str)
def test_twin(make, seed, mode):
  f, batch = forest(make, seed)
  np.testing.assert_allclose(forests.run(gpg, batch, **mode), twin(f, **mode), rtol=1e-5, atol=2e-6)
