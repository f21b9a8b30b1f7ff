"""RewardFlow (tmlr-group/RewardFlow@1cdead8e) against what its code gave on small graphs, and against an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.rewardflow import rewardflow


def flow(f, after, found, *, channel, gamma, terminal):
  """Step rewards of the episodes of one prompt, one list an episode."""
  arrives = {after[a]: f.state[b] for steps, _ in found for a, b in zip(steps, steps[1:])}

  def goal(s):
    if terminal == 'own':
      return 'end', s
    return arrives[after[s]] if after[s] in arrives else ('end', after[s])

  path = lambda steps: [f.state[s] for s in steps] + ([] if terminal == 'none' else [goal(steps[-1])])
  sightings = []   # (when, state, reward): a first state is seen, with 0, before its step is taken
  for steps, _ in found:
    seen = [((steps[0], 0), f.state[steps[0]], 0.)]
    seen += [((s, 1), state, f.reward[channel][s]) for s, state in zip(steps, path(steps)[1:])]
    # Only what a step to another state leaves or enters counts: it is not said in which order rewards are looked up and
    # self-loops removed; the release removes them first (`clean_trajectory`, then `propagate_reward_decay`).
    sightings += [x for k, x in enumerate(seen) if any(y[1] != x[1] for y in seen[max(k - 1, 0):k + 2])]
  reward = {}
  for _, state, r in sorted(sightings, key=lambda x: x[0]):
    reward.setdefault(state, r)
  for steps, _ in found:
    reward |= {state: 0. for state in path(steps) if state not in reward}
  edges = {(a, b) for steps, _ in found for a, b in zip(path(steps), path(steps)[1:]) if a != b}
  value = dict(reward)
  for _ in range(1000):
    new = {s: max([r] + [gamma * value[b] for a, b in edges if a == s]) for s, r in reward.items()}
    if new == value:
      break
    value = new
  out = []
  for steps, _ in found:
    states = path(steps)
    out.append([value[b] - value[a] for a, b in zip(states, states[1:])])
    if terminal == 'none':
      out[-1].append(f.reward[channel][steps[-1]])
  return out


def normalise(pool, x, std, ddof, eps):
  mean = sum(pool) / len(pool)
  if len(pool) == 1:
    return 0.
  return (x - mean) / (math.sqrt(sum((p - mean) ** 2 for p in pool) / (len(pool) - ddof)) + eps if std else 1.)


def twin(f, after, *, channel='task', gamma=.9, weight=1., std=True, ddof=1, terminal='shared', discount=0., eps=1e-6):
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    score, number = {}, {}   # of each step, one entry an episode through it
    flows = flow(f, after, found, channel=channel, gamma=gamma, terminal=terminal)
    for (steps, ret), rewards in zip(found, flows, strict=True):
      back = 0.
      for s, r in zip(reversed(steps), reversed(rewards), strict=True):
        back = r + discount * back
        score.setdefault(s, []).append(ret)
        number.setdefault(s, []).append(back)
    score, number = ({s: sum(x) / len(x) for s, x in d.items()} for d in (score, number))
    for s in score:
      same = [number[o] for o in number if f.state[o] == f.state[s]]
      episode = normalise(list(score.values()), score[s], std, ddof, eps)
      out[s] = episode + weight * normalise(same, number[s], std, ddof, eps)
  return out


def step_part(batch, **mode):
  """What a step gets from the steps of its state, only centred."""
  both, first = (forests.run(rewardflow, batch, std=False, discount=0., weight=w, **mode) for w in (1., 0.))
  return both - first


def rollouts(*paths, **columns):
  """Each path: a list of (state, reward, what comes next)."""
  parent = [len(sum(paths[:k], [])) + j - 1 if j else -1 for k, p in enumerate(paths) for j in range(len(p))]
  state, task, after = zip(*sum(paths, []))
  return toy.batch(parent, task=task, label=dict(state=state, next=after), **columns)


WON, LOST = [('s0', 0, 's1'), ('s1', 1, 'over')], [('s0', 0, 's2'), ('s2', 0, 'over')]
LATE = [('s0', 0, 's1'), ('s1', 0, 'over')]   # another rollout through s1, lost


@pytest.mark.parametrize('paths, terminal, expected', [
    # step rewards as executed: [0, 1] [0, 0]; [.09, .1] [-.81, 0]; won first [.09, .1] twice; lost first 0
    ((WON, LOST), 'none', [0, 0, 0, 0]), ((WON, LOST), 'own', [.45, 0, -.45, 0]),
    ((WON, LOST), 'shared', [0, 0, 0, 0]), ((LOST, WON), 'shared', [0, 0, 0, 0]),
    # with a third rollout the last steps of two share a state; step rewards by hand, gamma .9:
    ((WON, LOST, LATE), 'none', [0, .5, 0, 0, 0, -.5]),             # [0, 1] [0, 0] [0, 0]
    ((WON, LOST, LATE), 'own', [.3, .5, -.6, 0, .3, -.5]),          # [.09, .1] [-.81, 0] [.09, -.9]
    ((WON, LOST, LATE), 'shared', [0] * 6),                         # [.09, .1] three times
    ((LOST, WON, LATE), 'shared', [0] * 6),                         # all 0
], ids=str)
def test_worked_examples(paths, terminal, expected):
  np.testing.assert_allclose(step_part(rollouts(*paths), gamma=.9, terminal=terminal), expected, atol=1e-6)


def test_the_episode_part():
  # score 1 1 0 0 over the rows of the prompt: mean .5, sample deviation .57735
  batch = rollouts(WON, LOST)
  np.testing.assert_allclose(forests.run(rewardflow, batch, weight=0.), [.866, .866, -.866, -.866], atol=1e-4)
  np.testing.assert_allclose(forests.run(rewardflow, batch, weight=0., std=False), [.5, .5, -.5, -.5], atol=1e-6)
  # and the step part .09 against -.81: +-.7071
  got = forests.run(rewardflow, batch, terminal='own', weight=2., discount=0.)
  np.testing.assert_allclose(got, [2.2802, .866, -2.2802, -.866], atol=1e-4)


def test_step_rewards_are_not_summed_unless_discount_says_so():
  # [.09, .1] [-.81, 0]: with discount .5 the steps of s0 have .14 and -.81
  batch = rollouts(WON, LOST)
  got = forests.run(rewardflow, batch, std=False, terminal='own')
  np.testing.assert_allclose(got, [.95, .5, -.95, -.5], atol=1e-6)
  got = forests.run(rewardflow, batch, std=False, terminal='own', discount=.5)
  np.testing.assert_allclose(got, [.975, .5, -.975, -.5], atol=1e-6)


def test_an_end_may_be_a_state_others_go_on_from():
  # the second rollout stops where the first one goes on: V 1 .9 .81, step rewards [.09, .1] [.09]; else -.81
  batch = rollouts(WON, [('s0', 0, 's1')])
  np.testing.assert_allclose(step_part(batch, terminal='shared'), [0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(step_part(batch, terminal='own'), [.45, 0, -.45], atol=1e-6)


def test_values_flow_backwards_for_so_many_rounds():
  # s0 -> s1 -> s2 -> won, s0 -> x -> lost: V(s1) .81 at the fixed point; the steps of s0 differ by it
  batch = rollouts([('s0', 0, 's1'), ('s1', 0, 's2'), ('s2', 1, 'w')], [('s0', 0, 'x'), ('x', 0, 'l')])
  for rounds, half in ((1000, .405), (4, .405), (1, 0.)):
    np.testing.assert_allclose(step_part(batch, rounds=rounds), [half, 0, 0, -half, 0], atol=1e-6)


def test_a_first_state_is_seen_with_reward_nothing():
  # a rollout starts in a; another comes there from b for .5; a third stays out. V(a) is 0 or .5, whichever was first
  start, come, out = [('a', 0, 'x')], [('b', .5, 'a'), ('a', 0, 'x')], [('b', 0, 'y')]
  np.testing.assert_allclose(step_part(rollouts(start, come, out)), [0, 0, 0, 0], atol=1e-6)
  np.testing.assert_allclose(step_part(rollouts(come, start, out)), [.25, 0, 0, -.25], atol=1e-6)


def test_staying_is_no_way_to_gain():
  # s0 -> s1 for -.5, s1 -> s1, s1 -> end for -1: V(s1) = max(-.5, .9 * -1); with the self-loop it would creep up to 0
  batch = rollouts([('s0', -.5, 's1'), ('s1', 0, 's1'), ('s1', -1, 'end')])
  np.testing.assert_allclose(step_part(batch), [0, .25, -.25], atol=1e-6)   # step rewards 0 and -1 + .5


def test_a_reward_for_staying_counts_where_the_state_is_left():
  # c -> c for .5, c -> b: the step that stays is taken out, so c is first seen with .5, and leaving it costs that
  stay, leave = [('c', .5, 'c'), ('c', 0, 'b')], [('c', 0, 'd')]
  np.testing.assert_allclose(step_part(rollouts(stay, leave)), [1 / 3, -1 / 6, -1 / 6], atol=1e-6)
  np.testing.assert_allclose(step_part(rollouts(leave, stay)), [0, 0, 0], atol=1e-6)


def test_unknown_terminal():
  with pytest.raises(ValueError, match='terminal'):
    rewardflow(rollouts(WON), terminal='all')


def by_rollout(f):
  """The same forest with the steps of a rollout one behind the other, as they were sampled."""
  order, stack = [], [i for i, p in enumerate(f.parent) if p < 0][::-1]
  while stack:
    order.append(stack.pop())
    stack += [i for i, p in enumerate(f.parent) if p == order[-1]][::-1]
  take = lambda x: [x[i] for i in order]
  return f._replace(parent=[order.index(p) if p >= 0 else -1 for p in take(f.parent)], group=take(f.group), end=take(f.end),
                    state=take(f.state), reward={k: take(x) for k, x in f.reward.items()},
                    judged={k: take(x) for k, x in f.judged.items()})


@functools.cache
def forest(make, seed):
  """Chains with rewards on the way and ends that may be states; trees paid at the end, where no step goes on.

  Even seeds: no first state is come to again.
  """
  f, rng = by_rollout(getattr(forests, make)(seed)), random.Random(seed)
  child = {p: i for i, p in enumerate(f.parent)}
  if seed % 2 == 0:
    f = f._replace(state=[rng.choice('st') if p < 0 else s for p, s in zip(f.parent, f.state)])
  if make == 'chains':
    after = [f.state[child[i]] if i in child else rng.choice('abwx') for i in range(len(f.parent))]
  else:
    f = f._replace(reward=f.reward | {k: [0. if i in child else r for i, r in enumerate(x)] for k, x in f.reward.items()})
    after = ['on' if i in child else rng.choice('wxyz') for i in range(len(f.parent))]
  return f, after, f.batch(toy, label=dict(next=after))


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=False), dict(terminal='own', ddof=0, eps=.125), dict(terminal='none', weight=.5),
    dict(gamma=.5, std=False), dict(channel='format', eps=.125), dict(discount=.5, terminal='own', std=False),
    dict(discount=.9, terminal='none')], ids=str)
def test_twin(seed, mode):
  f, after, batch = forest('chains', seed)
  mode = dict(discount=0.) | mode
  np.testing.assert_allclose(forests.run(rewardflow, batch, **mode), twin(f, after, **mode), rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize('seed', [2, 3, 4])
@pytest.mark.parametrize('mode', [dict(std=False), dict(terminal='own', eps=.125), dict(terminal='none', std=False),
                                  dict(channel='format', std=False, gamma=.5)], ids=str)
def test_trees(seed, mode):
  """A shared step has the mean over the episodes through it of its step rewards; a step counts once."""
  f, after, batch = forest('trees', seed)
  np.testing.assert_allclose(forests.run(rewardflow, batch, discount=0., **mode), twin(f, after, **mode), rtol=2e-5, atol=1e-5)
