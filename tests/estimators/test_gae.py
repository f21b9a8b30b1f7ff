"""GAE against arXiv:1506.02438, its form for several turns (verl), and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.gae import gae


def twin(f, batch, *, channel='task', gamma=1., lam=1., whiten=True, head='value', bootstrap=True, token_reward=None):
  values = np.asarray(batch.tokens.stream[f'value/{head}']).tolist()
  further = np.asarray(batch.tokens.stream[token_reward]).tolist() if token_reward else None
  live = {s for group in forests.episodes(f, channel).values() for steps, _ in group for s in steps}
  adv, target = np.zeros(batch.tokens.node.shape), np.zeros(batch.tokens.node.shape)
  credited = []
  for sequence in forests.sequences(batch):
    trained = [(r, t, step) for r, t, step, own in sequence if own and step in live]   # observations are stepped over
    last = {step: t for _, t, step in trained}
    carried, following = 0., 0.
    if bootstrap and trained and f.end[trained[-1][2]] == 2:   # cut off: what comes is worth what the last token was
      following = values[trained[-1][0]][trained[-1][1]]
    for r, t, step in reversed(trained):
      reward = f.reward[channel][step] if last[step] == t else 0.
      if further:
        reward += further[r][t]
      carried = reward + gamma * following - values[r][t] + gamma * lam * carried
      following = values[r][t]
      adv[r, t], target[r, t] = carried, carried + values[r][t]
      credited.append((r, t))
  if whiten:
    mean = sum(adv[at] for at in credited) / len(credited)
    variance = sum((adv[at] - mean) ** 2 for at in credited) / (len(credited) - 1)
    for at in credited:
      adv[at] = (adv[at] - mean) / math.sqrt(variance + 1e-8)
  return adv, target


def test_worked_example():
  # gamma .9, lambda .8, r = 0 0 0 1, V = .2 .4 9 .6, the third token is an observation's
  values = {'value/value': [[.2, .4, 9., .6]]}
  batch = toy.batch([-1, 0], n_tokens=[2, 1], n_obs=[0, 1], task=[0, 1], stream=values)
  raw, white = (forests.run(gae, batch, gamma=.9, lam=.8, whiten=w) for w in (False, True))
  np.testing.assert_allclose(raw.adv, [[.46816, .428, 0, .4]], atol=1e-5)
  np.testing.assert_allclose(white.adv, [[1.054, -.118, 0, -.936]], atol=1e-3)
  for answer in (raw, white):   # A + V, before whitening
    np.testing.assert_allclose(answer.target['value'][0, [0, 1, 3]], [.66816, .828, 1.], atol=1e-5)


@pytest.mark.parametrize('end, task, expected', [
    (2, 0., [.38525, .195, .1, 0.]), (1, 1., [.7282, .556, .48, .4]), (1, 0., [-.129175, -.3465, -.47, -.6])])
def test_worked_example_of_a_cut_off_answer(end, task, expected):
  # T-PPO, arXiv:2506.15050: V(s_l) = V(s_l-1) where the answer was cut off
  batch = toy.batch([-1], n_tokens=4, end=[end], task=[task], stream={'value/value': [[.2, .4, .5, .6]]})
  np.testing.assert_allclose(forests.run(gae, batch, gamma=1., lam=.95, whiten=False).adv, [expected], atol=1e-5)


@functools.cache
def forest(seed, pack):
  f = forests.chains(seed)
  n = range(len(f.parent))
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 5 + seed) % 3 for i in n], n_obs=[(i * 7 + seed) % 3 for i in n])
  rng = np.random.default_rng(seed)
  columns = {k: rng.normal(size=batch.tokens.node.shape) for k in ('value/value', 'value/critic', 'kl')}
  return f, forests.with_stream(batch, **columns)


@pytest.mark.parametrize('seed, pack', [(0, 1), (0, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize('mode', [
    dict(gamma=1., lam=.95, whiten=False), dict(gamma=.9, lam=.8, whiten=False), dict(gamma=.9, lam=0., whiten=True),
    dict(channel='format', gamma=1., lam=1., whiten=True), dict(gamma=.9, lam=.5, bootstrap=False, whiten=False),
    dict(gamma=.9, lam=.9, head='critic', token_reward='kl')], ids=str)
def test_twin(seed, pack, mode):
  f, batch = forest(seed, pack)
  answer, (adv, target) = forests.run(gae, batch, **mode), twin(f, batch, **mode)
  mask = np.asarray(batch.tokens.mask)
  np.testing.assert_allclose(answer.adv, adv, rtol=1e-4, atol=1e-5)
  live = mask & (target != 0)
  np.testing.assert_allclose(answer.target[mode.get('head', 'value')][live], target[live], rtol=1e-4, atol=1e-5)


def test_an_episode_without_a_verdict_teaches_the_critic_nothing():
  b = toy.batch([-1, -1, -1], task=[1, 0, 5], judged=dict(task=[True, False, True]), end=[1, 1, 3], n_tokens=2,
                stream={'value/value': [.7, .4, .3]})
  got = gae(b, whiten=False)
  at = [np.asarray(b.tokens.mask & (b.tokens.node == i)) for i in range(3)]
  for where, target, adv in zip(at, (1., .4, 0.), (.3, 0., 0.), strict=True):
    np.testing.assert_allclose(np.asarray(got.target['value'])[where], target, atol=1e-6)
    np.testing.assert_allclose(np.asarray(got.adv)[where], adv, atol=1e-6)
