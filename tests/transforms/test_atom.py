"""Atom-Searcher's annealed reward (arXiv:2508.12800): by hand over training, missing verdicts, and a slow twin."""

import jax
import numpy as np
import pytest

from rlx import config, testing, toy
from rlx.estimators.grpo import grpo
from rlx.transforms import atom as module
from rlx.transforms.atom import atom

# two episodes of two thoughts, and one of one
B = toy.batch([-1, 0, -1, 2, -1], task=[0, 1, 0, 0, 1], prm=[.5, 1, .75, .25, 0])


@pytest.mark.parametrize('step, paid', [
    # a = .5: mean thoughts .75 .5 0 with outcomes 1 0 1
    (0, [.875, .25, .5]), (10, [.875, .25, .5]),
    # halfway a = .25
    (15, [.9375, .125, .75]), (20, [1, 0, 1]), (99, [1, 0, 1])])
def test_thoughts_at_first_the_outcome_in_the_end(step, paid):
  got = atom(B, step=np.int32(step), begin=10., until=20.).nodes
  np.testing.assert_allclose(got.reward['atom'], [0, paid[0], 0, paid[1], paid[2]], atol=1e-6)
  assert set(got.reward) == {'task', 'prm', 'atom'} and not got.judged and got.reward['task'] is B.nodes.reward['task']


def test_a_shared_thought_counts_in_each_episode():
  b = toy.batch([-1, 0, 0], task=[0, 1, 0], thought=[1, 0, .5])
  got = atom(b, step=0, until=10., start=1., thought='thought', into='both').nodes
  np.testing.assert_allclose(got.reward['both'], [0, .5, .75], atol=1e-6)


def test_thoughts_without_a_verdict_leave_the_mean():
  b = toy.batch([-1, 0, -1, -1], task=[0, 1, 1, 1], prm=[.5, 9, 9, 1], judged=dict(prm=[True, False, False, True]))
  got = atom(b, step=0, until=10.).nodes
  np.testing.assert_allclose(got.reward['atom'], [0, .75, 0, 1], atol=1e-6)
  np.testing.assert_array_equal(got.judged['atom'], [True, True, False, True])
  np.testing.assert_allclose(grpo(atom(b, step=0, until=10.), channel='atom', std=False), [-.125, -.125, 0, .125], atol=1e-6)


def test_failed_and_abandoned_are_paid_nothing():
  b = toy.batch([-1] * 4, end=[1, 2, 3, 0], task=1, prm=1)
  np.testing.assert_array_equal(atom(b, step=0, until=10.).nodes.reward['atom'], [1, 1, 0, 0])


def test_random_batch():
  """Jitted, floats and step traced, against a loop."""
  b = testing.batch()
  bound = config.build('transform', dict(name='atom', until=40., begin=10., start=.8))
  run = jax.jit(lambda b, floats, step: bound.call(b, floats=floats, step=step).nodes)
  n = jax.tree.map(np.asarray, b.nodes)
  for step in (0, 25, 60):
    a = .8 * min(max(1 - (step - 10) / 30, 0.), 1.)
    want, known = np.zeros(len(n.parent)), np.ones(len(n.parent), bool)
    for i in np.flatnonzero(n.valid & ((n.end == 1) | (n.end == 2))):
      path = [i]
      while n.parent[path[0]] >= 0:
        path.insert(0, n.parent[path[0]])
      thoughts = [n.reward['prm'][s] for s in path if n.judged['prm'][s]]
      known[i] = bool(thoughts)
      want[i] = a * np.mean(thoughts) + (1 - a) * sum(n.reward['task'][s] for s in path) if thoughts else 0.
    got = run(b, bound.floats(), np.int32(step))
    np.testing.assert_allclose(got.reward['atom'], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(got.judged['atom'], known)
  assert run._cache_size() == 1


def test_what_it_says():
  assert module.writes == ('reward/atom',)
  with pytest.raises(config.ConfigError, match="transform 'atom' needs until"):
    config.build('transform', 'atom')
