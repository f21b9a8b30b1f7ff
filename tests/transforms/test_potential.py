"""Potential shaping (Ng, Harada, Russell, ICML 1999): by hand, and that it changes no policy."""

import dataclasses

import jax
import numpy as np
import pytest

from rlx import testing, toy, tree
from rlx.estimators.gigpo import gigpo, step_returns
from rlx.estimators.grpo import grpo
from rlx.transforms.potential import potential


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def test_potential_by_hand():
  """Phi .5 .8 .1 before each step, gamma .9, r = 0 .2 1: .72 - .5, .2 + .09 - .8, 1 + 0 - .1; an episode cut off ends too."""
  b = toy.batch([-1, 0, 1, -1], task=[0, .2, 1, 0], end=[0, 0, 1, 2], value=dict(potential=[.5, .8, .1, .4]))
  close(potential(b, gamma=.9).nodes.reward['shaped'], [.22, -.51, .9, -.4])
  assert set(potential(b, into='x').nodes.reward) == {'task', 'x'} and not potential(b).nodes.judged


def test_potential_of_the_state_behind():
  """What a probe found behind each step, .8 .1 (.7 behind the end does not count), and .5 below the question: the same shaping."""
  b = toy.batch([-1, 0, 1], task=[0, .2, 1], value=dict(p=[.8, .1, .7]), prompt=dict(p=[.5]))
  close(potential(b, value='p', gamma=.9, at='after').nodes.reward['shaped'], [.22, -.51, .9])
  b = dataclasses.replace(b, prompt={})                                       # a question of potential 0
  close(potential(b, value='p', gamma=.9, at='after').nodes.reward['shaped'], [.72, -.51, .9])


def states(b):
  """The batch with a potential that is equal on steps which continue the same state."""
  phi, parent = np.asarray(b.nodes.value['potential']).copy(), np.asarray(b.nodes.parent)
  for g in range(5):
    phi[(parent < 0) & (np.asarray(b.nodes.group) == g)] = g / 7
  for i in range(len(parent)):
    first = np.flatnonzero(parent == parent[i])[0]
    if parent[i] >= 0:
      phi[i] = phi[first]
  return dataclasses.replace(b, nodes=dataclasses.replace(b.nodes, value={**b.nodes.value, 'potential': jax.numpy.asarray(phi)})), phi


@pytest.mark.parametrize('seed', [0, 1])
def test_no_policy_is_preferred_by_shaping(seed):
  """Returns to go telescope to G - Phi(s) on every step of any tree, and without discount a return moves by its prompt's Phi alone."""
  b, phi = states(testing.batch(seed))
  n = b.nodes
  ret, on = tree.returns(n, 'task')
  live = tree.through(on, n.parent)
  shaped = jax.jit(lambda b, g: potential(b, gamma=g))(b, np.float32(.9))
  want = step_returns(b, live, channel='task', gamma=.9) - phi
  close(np.where(live, step_returns(shaped, live, channel='shaped', gamma=.9), 0), np.where(live, want, 0), 1e-5)
  whole = potential(b)
  close(np.where(on, tree.returns(whole.nodes, 'shaped')[0], 0), np.where(on, ret - np.asarray(n.group) / 7, 0), 1e-5)
  close(grpo(whole, channel='shaped', std=False), grpo(b, std=False), 1e-5)      # equal returns are equal up to rounding only
  assert np.abs(np.asarray(gigpo(whole, channel='shaped') - gigpo(b))).max() > .1


def test_potential_leaves_dead_steps_alone():
  """Neither an abandoned branch nor an episode without a verdict says what a state leads to."""
  b = toy.batch([-1, 0, 0, 0], task=[0, 1, 0, 0], end=[0, 1, 0, 1], judged=dict(task=[True, True, True, False]),
                value=dict(potential=[.5, .25, 7., 9.]))
  got = potential(b).nodes
  close(got.reward['shaped'], [-.25, .75, 0, 0])
  assert got.judged['shaped'].tolist() == [True, True, True, False]


def test_potential_has_two_places():
  with pytest.raises(ValueError, match='behind'):
    potential(toy.batch([-1], task=0, value=dict(potential=0)), at='behind')
