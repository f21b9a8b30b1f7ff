"""Bi-level GAE (VAGEN, arXiv:2510.16907) as released in WillDreamer/ARLArena@dc1da9f7 `recipe/ragen`, and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.bi_level_gae import bi_level_gae


def backwards(rewards, values, gamma, lam):
  """GAE over a list, nothing behind its end."""
  out, carried, following = [], 0., 0.
  for r, v in zip(reversed(rewards), reversed(values), strict=True):
    carried = r + gamma * following - v + gamma * lam * carried
    following = v
    out.append(carried)
  return out[::-1]


def twin(f, batch, *, channel='task', head='value', gamma=1., lam=1., gamma_turn=1., lam_turn=1., ends='turns', whiten=True):
  values = np.asarray(batch.tokens.stream[f'value/{head}']).tolist()
  live = {s for group in forests.episodes(f, channel).values() for steps, _ in group for s in steps}
  adv, target = np.zeros(batch.tokens.node.shape), np.zeros(batch.tokens.node.shape)
  credited = []
  for sequence in forests.sequences(batch):
    trained = [(r, t, step) for r, t, step, own in sequence if own and step in live]   # observations are stepped over
    last = {step: (r, t) for r, t, step in trained}
    turns = [(at, f.reward[channel][step]) for step, at in last.items() if ends == 'turns' or f.reward[channel][step] != 0]
    assert not trained or turns[-1][0] == trained[-1][:2], 'a path has to end at the end of a turn'
    upper = backwards([r for _, r in turns], [values[r][t] for (r, t), _ in turns], gamma_turn, lam_turn)
    pays = {at: a + values[at[0]][at[1]] for (at, _), a in zip(turns, upper, strict=True)}   # rewards of turns
    block = []
    for r, t, _ in trained:
      block.append((r, t))
      if (r, t) in pays:     # the end of a turn: nothing of the next one reaches it but this
        lower = backwards([pays.get(at, 0.) for at in block], [values[r][t] for r, t in block], gamma, lam)
        for at, a in zip(block, lower, strict=True):
          adv[at], target[at] = a, a + values[at[0]][at[1]]
        credited += block
        block = []
  if whiten:
    mean = sum(adv[at] for at in credited) / len(credited)
    variance = sum((adv[at] - mean) ** 2 for at in credited) / (len(credited) - 1)
    for at in credited:
      adv[at] = (adv[at] - mean) / math.sqrt(variance + 1e-8)
  return adv, target


# two turns of two tokens, V = .2 .4 | .6 .8, the token between them is an observation's; turn level: A_2 = r_2 - .8,
# A_1 = r_1 + .8 * .8 - .4 + .8 * .5 A_2; token level with gamma .9, lambda .5, pseudo-rewards A + V at the ends of turns
MODE = dict(gamma=.9, lam=.5, gamma_turn=.8, lam_turn=.5)


@pytest.mark.parametrize('ends', ['turns', 'rewards'])
@pytest.mark.parametrize('task, expected', [
    # A_2 = .2, A_1 = .74 + .08; tokens: .9 * .4 - .2 + .45 * .82, .82, .9 * .8 - .6 + .45 * .2, .2
    ([.5, 1], dict.fromkeys(('turns', 'rewards'), [.529, .82, .21, .2])),
    # no reward on the first turn: A_1 = .24 + .08; by 'rewards' the two turns are one: .9 * .6 - .4 + .45 * .21 = .2345 ...
    ([0, 1], dict(turns=[.304, .32, .21, .2], rewards=[.265525, .2345, .21, .2]))], ids=['two rewards', 'one reward'])
def test_worked_example(ends, task, expected):
  batch = toy.batch([-1, 0], n_tokens=2, n_obs=[0, 1], task=task, stream={'value/value': [[.2, .4, 9., .6, .8]]})
  raw = forests.run(bi_level_gae, batch, ends=ends, whiten=False, **MODE)
  want, at = np.array(expected[ends]), [0, 1, 3, 4]
  np.testing.assert_allclose(raw.adv[0, at], want, atol=1e-6)
  np.testing.assert_allclose(raw.target['value'][0, at], want + [.2, .4, .6, .8], atol=1e-6)
  assert not raw.adv[0, 2] and not raw.target['value'][0, 2]
  white = forests.run(bi_level_gae, batch, ends=ends, **MODE)
  np.testing.assert_allclose(white.adv[0, at], (want - want.mean()) / math.sqrt(want.var(ddof=1) + 1e-8), rtol=1e-4)
  np.testing.assert_allclose(white.target['value'], raw.target['value'], atol=1e-6)   # of the raw advantages


@pytest.mark.parametrize('n_tokens, parent, task, values, expected', [
    # a shared turn looks at both next ones: R_0 = .8 mean(.5 * .4 + .5 * 1, .5 * .6 + .5 * 0) = .4
    (1, [-1, 0, 0], [0, 1, 0], [.2, .4, .6], dict(turns=[.2, .6, -.6])),
    # the reward of a step without a token of its own is the one before's: R_0 = .5 + .8 (.5 * .6 + .5 * 1) = 1.14
    ([1, 0, 1], [-1, 0, 1], [0, .5, 1], [.2, 9, .6], dict(turns=[.94, 0, .4], rewards=[.94, 0, .4])),
    # no reward at the end, where the release reads beyond it (ours: nothing follows); as turns R_0 = 1 + .8 (.5 * .6 + 0) = 1.24
    (1, [-1, 0], [1, 0], [.2, .6], dict(turns=[1.04, -.6], rewards=[.8, -.6]))], ids=['tree', 'no token', 'no reward'])
def test_beyond_the_release(n_tokens, parent, task, values, expected):
  batch = toy.batch(parent, n_tokens=n_tokens, task=task, stream={'value/value': values})
  for ends, want in expected.items():
    got = forests.run(bi_level_gae, batch, ends=ends, whiten=False, **MODE).adv
    at = [np.asarray(batch.tokens.mask & (batch.tokens.node == i)) for i in range(len(parent))]
    np.testing.assert_allclose([got[x].sum() for x in at], want, atol=1e-6)


def test_without_one_of_its_own_the_turns_have_the_lambda_of_the_tokens():
  batch = toy.batch([-1, 0], n_tokens=2, task=[.5, 1], stream={'value/value': [[.2, .4, .6, .8]]})
  own, same, other = (forests.run(bi_level_gae, batch, whiten=False, **{**MODE, 'lam_turn': lam}).adv for lam in (None, .5, 1.))
  np.testing.assert_array_equal(own, same)
  assert np.abs(own - other).max() > .05


def test_an_episode_without_a_verdict_teaches_the_critic_nothing():
  batch = toy.batch([-1, -1, -1], task=[1, 0, 5], judged=dict(task=[True, False, True]), end=[1, 1, 3],
                    stream={'value/value': [.7, .4, .3]})
  got = forests.run(bi_level_gae, batch, whiten=False)
  np.testing.assert_allclose(got.adv, [[.3], [0], [0]], atol=1e-6)
  np.testing.assert_allclose(got.target['value'], [[1], [.4], [0]], atol=1e-6)


def test_no_such_ends():
  with pytest.raises(ValueError, match='tokens'):
    bi_level_gae(toy.batch([-1], task=1, stream={'value/value': [.5]}), ends='tokens')


@functools.cache
def forest(seed, pack):
  f = forests.chains(seed)
  n, rng = range(len(f.parent)), random.Random(seed)
  # 'rewards' needs paths that end on a reward (elsewhere the release indexes past the end)
  f.reward['dense'] = [rng.choice([0., 0., .25, -.5]) if i in f.parent else rng.choice([1., -.25, .5]) for i in n]
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 5 + seed) % 3 for i in n], n_obs=[(i * 7 + seed) % 3 for i in n])
  draw = np.random.default_rng(seed)
  columns = {k: draw.normal(size=batch.tokens.node.shape) for k in ('value/value', 'value/critic')}
  return f, forests.with_stream(batch, **columns)


@pytest.mark.parametrize('seed, pack', [(0, 1), (0, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize('mode', [
    dict(gamma=.9, lam=.8, gamma_turn=.7, lam_turn=.6, whiten=False), dict(gamma=1., lam=1., gamma_turn=1., lam_turn=1.),
    dict(channel='format', gamma=.9, lam=.5, gamma_turn=.8, lam_turn=0., head='critic', whiten=False),
    dict(channel='dense', ends='rewards', gamma=.9, lam=.8, gamma_turn=.7, lam_turn=.6, whiten=False),
    dict(channel='dense', ends='rewards', gamma=1., lam=.9, gamma_turn=.95, lam_turn=.9),
    dict(channel='dense', gamma=1., lam=.9, gamma_turn=.95, lam_turn=.9)], ids=str)
def test_twin(seed, pack, mode):
  f, batch = forest(seed, pack)
  answer, (adv, target) = forests.run(bi_level_gae, batch, **mode), twin(f, batch, **mode)
  np.testing.assert_allclose(answer.adv, adv, rtol=1e-4, atol=1e-5)
  live = np.asarray(batch.tokens.mask) & (target != 0)
  np.testing.assert_allclose(answer.target[mode.get('head', 'value')][live], target[live], rtol=1e-4, atol=1e-5)
