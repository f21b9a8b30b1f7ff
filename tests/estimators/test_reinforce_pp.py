"""REINFORCE++ against arXiv:2501.03262, the two returns of verl, and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.reinforce_pp import reinforce_pp


def twin(f, batch, *, channel='task', gamma=1., gaps='carry', baseline=False, token_reward=None):
  found = forests.episodes(f, channel)
  live = {s for group in found.values() for steps, _ in group for s in steps}
  further = np.asarray(batch.tokens.stream[token_reward]).tolist() if token_reward else None
  credit = {}   # (row, column) -> number, on the tokens that are whitened
  for sequence in forests.sequences(batch):
    last = {step: t for _, t, step, trained in sequence if trained}
    steps = {step for _, _, step, _ in sequence}
    running = 0.
    for r, t, step, trained in reversed(sequence):
      reward = f.reward[channel][step] if last.get(step) == t else 0.
      if further:
        reward += further[r][t]
      if trained:
        running = reward + gamma * running
      elif gaps == 'reset':
        running = 0.
      if trained and step in live:
        credit[r, t] = running
    if baseline and steps & live:
      group = found[f.group[min(steps)]]
      score, = [ret for path, ret in group if steps >= set(path)]
      mean = sum(ret for _, ret in group) / len(group) if len(group) > 1 else 0.
      credit.update({(r, t): score - mean for r, t, _, trained in sequence if trained})
  mean = sum(credit.values()) / len(credit)
  variance = sum((x - mean) ** 2 for x in credit.values()) / (len(credit) - 1)
  out = np.zeros(batch.tokens.node.shape)
  for at, x in credit.items():
    out[at] = (x - mean) / math.sqrt(variance + 1e-8)
  return out


def tokens(batch, adv):
  return np.asarray(adv)[np.asarray(batch.tokens.mask)]


def test_worked_example_of_the_baseline():
  # R = 1 0 | .5 .5 minus the group's mean, lengths 2 1 2 1, whitened over the six tokens
  batch = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, .5, .5], n_tokens=[2, 1, 2, 1])
  adv = forests.run(reinforce_pp, batch, baseline=True)
  np.testing.assert_allclose(tokens(batch, adv), [1.107, 1.107, -1.550, -.221, -.221, -.221], atol=1e-3)


def test_whitening():
  # G = 1 1 | 0 | .5 .5 | .5: mean .58333, sample variance .14167
  batch = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, .5, .5], n_tokens=[2, 1, 2, 1])
  adv = tokens(batch, forests.run(reinforce_pp, batch))
  np.testing.assert_allclose(adv, [1.10702, 1.10702, -1.54983, -.22140, -.22140, -.22140], atol=1e-4)


def test_returns_across_an_observation():
  # verl-project/verl issue 7278: action action observation observation action action, 1 at the end;
  # the returns 0 0 - - 1 1 (reset) and 1 1 - - 1 1 (carry), whitened
  batch = toy.batch([-1, 0], n_tokens=2, n_obs=[0, 2], task=[0, 1])
  reset, carry = (forests.run(reinforce_pp, batch, gaps=g) for g in ('reset', 'carry'))
  np.testing.assert_allclose(reset, [[-.86603, -.86603, 0, 0, .86603, .86603]], atol=1e-4)
  np.testing.assert_allclose(carry, np.zeros((1, 6)), atol=1e-6)


def test_an_observation_costs_no_discount():
  # verl-project/verl pull 7300, gamma .5, 2 at the end: .5 1 - - 2; mean 1.16667, sample variance .58333
  batch = toy.batch([-1, 0], n_tokens=[2, 1], n_obs=[0, 2], task=[0, 2])
  adv = forests.run(reinforce_pp, batch, gaps='carry', gamma=.5)
  np.testing.assert_allclose(adv, [[-.87287, -.21822, 0, 0, 1.09109]], atol=1e-4)


@functools.cache
def forest(seed, pack):
  f = forests.chains(seed)
  n = range(len(f.parent))
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 7 + seed) % 3 for i in n], n_obs=[(i * 5 + seed) % 3 for i in n])
  return f, forests.with_stream(batch, kl=np.random.default_rng(seed).normal(size=batch.tokens.node.shape))


@pytest.mark.parametrize('seed, pack', [(0, 1), (0, 2), (1, 3), (2, 1)])
@pytest.mark.parametrize('mode', [
    dict(gaps='carry'), dict(gaps='reset'), dict(gaps='carry', gamma=.75), dict(gaps='reset', gamma=.75),
    dict(gaps='carry', gamma=.75, token_reward='kl'), dict(gaps='reset', token_reward='kl'),
    dict(baseline=True), dict(channel='format', gaps='carry'), dict(channel='format', baseline=True)], ids=str)
def test_twin(seed, pack, mode):
  f, batch = forest(seed, pack)
  adv = forests.run(reinforce_pp, batch, **mode)
  assert adv.shape == batch.tokens.node.shape
  np.testing.assert_allclose(adv, twin(f, batch, **mode), rtol=2e-5, atol=5e-6)
