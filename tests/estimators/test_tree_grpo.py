"""Tree-GRPO (AMAP-ML/Tree-GRPO@90b17099) against its worked example and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.tree_grpo import tree_grpo


def normalise(x, keys, *, std, ddof, eps, singleton):
  """Each number against those with an equal key."""
  out = []
  for value, key in zip(x, keys, strict=True):
    pool = [v for v, k in zip(x, keys, strict=True) if k == key]
    if len(pool) == 1:
      out.append(value if singleton == 'raw' else 0.)
      continue
    mean = sum(pool) / len(pool)
    spread = math.sqrt(sum((v - mean) ** 2 for v in pool) / (len(pool) - ddof))
    out.append((value - mean) / (spread + eps if std else 1.))
  return out


def twin(f, trees=None, *, channel='task', mode='both', std=True, ddof=1, eps=1e-6, singleton='zero'):
  how = dict(std=std, ddof=ddof, eps=eps, singleton=singleton)
  advantages = []
  for found in forests.episodes(f, channel).values():
    ret = [r for _, r in found]
    names = [steps[0] if trees is None else trees[steps[-1]] for steps, _ in found]
    over = normalise(ret, [0] * len(ret), **how)
    if mode == 'both':
      adv = [a + b for a, b in zip(over, normalise(ret, names, **how), strict=True)]
    else:
      adv = normalise(over if mode == 'renorm' else ret, names, **how)
    advantages += [(steps, a) for (steps, _), a in zip(found, adv, strict=True)]
  return forests.over_paths(f, advantages)


# the question has first steps 0 and 1; below 0 episodes with 1 and 0, below 1 with 0 and 0
EXAMPLE = dict(parent=[-1, -1, 0, 0, 1, 1], task=[0, 0, 1, 0, 0, 0])


@pytest.mark.parametrize('mode, expected', [
    # 1.5 -.5 -.5 -.5 over the prompt, .707 -.707 | 0 0 over the trees; a shared step has the mean
    (dict(), [.5, -.5, 2.207, -1.207, -.5, -.5]),
    (dict(mode='tree'), [0, 0, .707, -.707, 0, 0]),
    (dict(mode='renorm'), [0, 0, .707, -.707, 0, 0]),
    (dict(std=False), [.25, -.25, 1.25, -.75, -.25, -.25]),
    (dict(mode='renorm', std=False), [0, 0, .5, -.5, 0, 0]),
    (dict(ddof=0), [.5774, -.5774, 2.7321, -1.5774, -.5774, -.5774])], ids=str)   # 1.7321 and 1
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(tree_grpo, toy.batch(**EXAMPLE), **mode), expected, atol=6e-4)


def test_a_tree_of_one():
  # trees 1 0 | 1: over the prompt .577 -1.155 .577, over the trees .707 -.707 and alone: 0, or what it was handed
  batch = toy.batch([-1, 0, 0, -1], task=[0, 1, 0, 1])
  for mode, singleton, last in (('both', 'zero', .5774), ('both', 'raw', 1.5774), ('tree', 'raw', 1.), ('tree', 'zero', 0.),
                                ('renorm', 'raw', .5774), ('renorm', 'zero', 0.)):
    got = forests.run(tree_grpo, batch, mode=mode, singleton=singleton)
    np.testing.assert_allclose(got[3], last, atol=1e-4, err_msg=f'{mode} {singleton}')
    np.testing.assert_allclose(got[1] - got[2], 1.4142 + (1.7321 if mode == 'both' else 0.), atol=1e-4)


def test_an_episode_alone():
  batch = toy.batch([-1, 0], task=[.25, .5])
  np.testing.assert_array_equal(forests.run(tree_grpo, batch), [0, 0])
  np.testing.assert_allclose(forests.run(tree_grpo, batch, singleton='raw'), [1.5, 1.5], atol=1e-6)


def test_a_label_names_the_tree():
  # two first steps of one tree, named alike; the same name in another prompt is another tree
  batch = toy.batch([-1] * 4, group=[0, 0, 0, 1], task=[1, 0, 5, 3], label=dict(tree=[7, 7, 8, 7]))
  np.testing.assert_allclose(forests.run(tree_grpo, batch, mode='tree', std=False), [.5, -.5, 0, 0], atol=1e-6)


@pytest.mark.parametrize('wrong', [dict(mode='forest'), dict(singleton='one')], ids=str)
def test_unknown_modes(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    tree_grpo(toy.batch(**EXAMPLE), **wrong)


@functools.cache
def forest(make, seed, named):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  name = {i: rng.choice('xyz') for i, p in enumerate(f.parent) if p < 0}   # of first steps: several may be of one tree
  trees = [name[forests.path(f.parent, i)[0]] for i in range(len(f.parent))] if named else None
  return f, trees, f.batch(toy, label=dict(tree=trees) if named else {})


@pytest.mark.parametrize('make, seed, named', [
    ('chains', 0, True), ('trees', 1, False), ('trees', 2, False), ('trees', 3, True)])
@pytest.mark.parametrize('mode', [
    dict(), dict(mode='renorm', eps=.125), dict(mode='tree'), dict(mode='tree', std=False), dict(ddof=0, singleton='raw'),
    dict(channel='format', singleton='raw', eps=.125), dict(mode='renorm', std=False, singleton='raw')], ids=str)
def test_twin(make, seed, named, mode):
  f, trees, batch = forest(make, seed, named)
  np.testing.assert_allclose(forests.run(tree_grpo, batch, **mode), twin(f, trees, **mode), rtol=2e-5, atol=5e-6)
