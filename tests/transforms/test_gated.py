"""Gated reward accumulation (G-RA, arXiv:2508.10548, from a note) and an independent twin."""

import functools
import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy, tree
from rlx.transforms import gated as module
from rlx.transforms.gated import gated
from tests.estimators import forests


def written(batch, **mode):
  """What an estimator reads, as `forests.run` takes it: the return of each episode, and where they stand."""
  ret, on = tree.returns(gated(batch, **mode).nodes, mode.get('into', 'gated'))
  return jnp.where(on, ret, 0.), on


written.__signature__ = inspect.signature(gated)


def twin(f, *, outcome='task', parts=('turn',), threshold=0., into='gated'):
  del into
  ret, on = [0.] * len(f.parent), [False] * len(f.parent)
  for i, end in enumerate(f.end):
    steps = forests.path(f.parent, i)
    if end not in (1, 2) or not all(f.judged.get(k, {s: True for s in steps})[s] for k in (outcome, *parts) for s in steps):
      continue
    total, is_open = 0., True
    for k in (outcome, *parts):        # from the first in rank: one counts only where all above it passed
      score = sum(f.reward[k][s] for s in steps)
      total += score if is_open else 0.
      is_open = is_open and score > threshold
    ret[i], on[i] = total, True
  return ret, on


@pytest.mark.parametrize('mode, expected', [
    (dict(), [1.75, 0, -.5, 1.25]),                              # R = outcome + 1{outcome > g} sum of turns; equal is closed
    (dict(threshold=.5), [1.75, 0, -.5, .5]),
    (dict(threshold=-1.), [1.75, .75, .25, 1.25]),
    (dict(parts=('turn', 'style'), threshold=.5), [2., 0, -.5, .5]),
    (dict(parts=('style', 'turn'), threshold=.5), [1.25, 0, -.5, .5]),     # style .25 does not open the gate of turn
], ids=str)
def test_worked_example(mode, expected):
  # four rollouts of two steps: outcomes 1 0 -.5 .5, turns .25 + .5 each, style .25
  b = toy.batch([-1, 0, -1, 2, -1, 4, -1, 6], task=[0, 1, 0, 0, 0, -.5, 0, .5], turn=[.25, .5] * 4, style=[.25, 0] * 4)
  ret, on = forests.run(written, b, **mode)
  np.testing.assert_allclose(ret[1::2], expected, atol=1e-6)
  assert on.tolist() == [False, True] * 4


def test_a_shared_step_can_be_behind_an_open_and_a_closed_gate():
  # the turn of step 0 counts for the episode that is right, and not for the other
  ret, _ = forests.run(written, toy.batch([-1, 0, 0], task=[0, 1, 0], turn=[.5, .25, .25]))
  np.testing.assert_allclose(ret, [0, 1.75, 0], atol=1e-6)


@functools.cache
def forest(kind, seed):
  f = getattr(forests, kind)(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('kind, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode', [
    dict(parts=('invalid',)), dict(parts=('format', 'invalid'), threshold=.125),
    dict(parts=('invalid', 'format'), threshold=-.125),
    dict(outcome='format', parts=('task', 'invalid'), into='task')], ids=str)
def test_twin(kind, seed, mode):
  f, batch = forest(kind, seed)
  ret, on = forests.run(written, batch, **mode)
  want, judged = twin(f, **mode)
  np.testing.assert_allclose(ret, want, rtol=2e-5, atol=5e-6)
  np.testing.assert_array_equal(on, judged)


def test_what_it_says():
  assert module.writes == ('reward/gated',)
  b = toy.batch([-1], task=1, turn=.5)
  got = gated(b)
  assert set(got.nodes.reward) == {'task', 'turn', 'gated'} and got.tokens is b.tokens
  assert all(got.nodes.reward[k] is v for k, v in b.nodes.reward.items())


def test_every_reward_stays_at_its_step_where_it_can():
  # two rollouts of two steps, one right: its turns stay; below a shared step with both, the shared turn goes to the right one's end
  b = toy.batch([-1, 0, -1, 2, -1, 4, 4], task=[0, 1, 0, 0, 0, 1, 0], turn=[.5, .25, .5, .25, .5, .25, .25])
  np.testing.assert_allclose(gated(b).nodes.reward['gated'], [.5, 1.25, 0, 0, 0, 1.75, 0], atol=1e-6)
