"""Transforms described second-hand: potential shaping, overlong punishment, usage credit of a memory."""

import dataclasses

import jax
import numpy as np
import pytest

from rlx import testing, toy, tree
from rlx.estimators.gigpo import gigpo, step_returns
from rlx.estimators.grpo import grpo
from rlx.transforms.length_penalty import length_penalty
from rlx.transforms.lts import lts
from rlx.transforms.potential import potential


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


# ---- potential ---------------------------------------------------------------------------------------------------------

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


# ---- length_penalty ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('length, paid', [(75, 0.), (80, 0.), (90, -.5), (100, -1.), (110, -1.5)])
def test_length_penalty_of_the_sheet(length, paid):
  """limit 100, buffer 20."""
  b = toy.batch([-1], n_tokens=length, task=1)
  close(length_penalty(b, limit=100., buffer=20.).nodes.reward['length'], [paid])
  close(length_penalty(b, limit=100, buffer=20, factor=.5, into='all', channel='task').nodes.reward['all'], [1 + paid / 2])


def test_length_penalty_of_paths_and_steps():
  """Sampled tokens only, a shared step in both its paths; steps 4 3 | 1 2 with limit 6, buffer 2 -> paths 4 + 3, 4 + 1; done and failed."""
  b = toy.batch([-1, 0, 0, 0], n_tokens=[4, 3, 1, 9], n_obs=5, task=0, end=[0, 1, 2, 3])
  run = lambda **kw: jax.jit(lambda b: length_penalty(b, buffer=2., **kw))(b).nodes.reward['length']
  close(run(limit=6.), [0, -1.5, -.5, 0])
  close(run(limit=3., per='step'), [-1.5, -1, 0, -4])
  with pytest.raises(ValueError, match='turn'):
    run(limit=1., per='turn')


def test_length_penalty_adds_to_a_judged_channel():
  b = toy.batch([-1, -1], task=[1, 1], judged=dict(task=[True, False]), n_tokens=3)
  assert not length_penalty(b).nodes.judged.keys() - {'task'}
  assert length_penalty(b, channel='task').nodes.judged['length'].tolist() == [True, False]


# ---- lts ---------------------------------------------------------------------------------------------------------------

def test_lts_by_hand():
  """Two runs: yes and recalled, yes and not, no; the same in a run without reward, where nothing but the price is left."""
  yes, used = [1, 1, 0] * 2, [1, 0, 1] * 2
  b = toy.batch([-1, 0, 1, -1, 3, 4], task=[0, 0, 1, 0, 0, 0], label=dict(admit=yes, recalled=used))
  got = lts(b, beta=.5, sparse=.125)
  close(got.nodes.reward['lts'], [.375, -.125, 0, -.125, -.125, 0])
  assert lts(b).nodes.judged == {} and set(got.nodes.reward) == {'task', 'lts'}


def test_lts_adds_to_the_advantage_of_the_decision_alone():
  """`gigpo` with this channel as its penalty: GRPO's R - mean R plus the credit of the step."""
  b = toy.batch([-1, 0, -1, 2], task=[0, 1, 0, 0], label=dict(admit=1, recalled=[1, 0, 1, 1], state=0))
  adv = gigpo(lts(b, beta=.5, sparse=.125), weight=0., population='episodes', penalty='lts')
  close(adv, [.5 + .375, .5 - .125, -.625, -.625])


def test_lts_on_a_tree():
  """A shared decision: the share of rewarded runs, 1 of 2; a failed, an abandoned and an unjudged one neither count nor are paid."""
  b = toy.batch([-1, 0, 0, 0, 0, 0], task=[0, 1, 0, 1, 1, 1], end=[0, 1, 1, 3, 0, 1], judged=dict(task=[True] * 5 + [False]),
                label=dict(admit=1, recalled=1))
  close(lts(b, beta=1., sparse=.25).nodes.reward['lts'], [.25, .75, -.25, 0, 0, 0])
