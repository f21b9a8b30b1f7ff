"""HGPO ("Hierarchy-of-Groups Policy Optimization", ICLR 2026) against its worked example and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.hgpo import hgpo


def twin(f, *, channel='task', gamma=.95, history=2, alpha=1., first=2, std=False, base=False, eps=1e-6):
  rows = []   # (step, group, observations up to and including this one, discounted return)
  for group, found in forests.episodes(f, channel).items():
    for steps, _ in found:
      back = 0.
      for at in reversed(range(len(steps))):
        back = f.reward[channel][steps[at]] + gamma * back
        rows.append((steps[at], group, [f.state[s] for s in steps[:at + 1]], back))
  pool = {group: [r for steps, r in found for _ in steps] for group, found in forests.episodes(f, channel).items()}
  score = {s: r for found in forests.episodes(f, channel).values() for steps, r in found for s in steps}
  out = [0.] * len(f.parent)
  for s, group, seen, back in rows:
    weights, advantages = [], []
    if base:   # the episode's return over all steps of the prompt, as in GiGPO
      mean = sum(pool[group]) / len(pool[group])
      spread = math.sqrt(sum((r - mean) ** 2 for r in pool[group]) / max(len(pool[group]) - 1, 1))
      weights.append(1.)
      advantages.append(score[s] if len(pool[group]) == 1 else (score[s] - mean) / (spread + eps if std else 1.))
    for length in range(1, min(history + 1, len(seen)) + 1):
      cluster = [b for _, g, other, b in rows if g == group and len(other) >= length and other[-length:] == seen[-length:]]
      if len(cluster) < 2:
        continue
      mean = sum(cluster) / len(cluster)
      spread = math.sqrt(sum((b - mean) ** 2 for b in cluster) / len(cluster))
      advantages.append((back - mean) / (spread + eps if std else 1.))
      weights.append((length - 1 + first) ** alpha)
    out[s] = sum(w * a for w, a in zip(weights, advantages)) / (sum(weights) + 1e-6)
  return out


# a b c | a b d | x b c with step returns .81 .9 1 | 0 0 0 | 0 0 0
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, 4, -1, 6, 7], task=[0, 0, 1, 0, 0, 0, 0, 0, 0],
               label=dict(state=list('abcabdxbc')))


@pytest.mark.parametrize('mode, expected', [
    (dict(first=2), [.405, .51, .5, -.405, -.39, 0, 0, -.3, -.5]),
    (dict(first=1), [.405, .5, .5, -.405, -.4, 0, 0, -.3, -.5]),
    (dict(first=2, std=True), [1, 1.1657, 1, -1, -.8828, 0, 0, -.7071, -1]),
], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(hgpo, toy.batch(**EXAMPLE), gamma=.9, history=1, **mode), expected, atol=1e-4)


def test_history_is_not_padded():
  # x | x: no step before, so one level, with all the weight whatever the history
  batch = toy.batch([-1, -1], label=dict(state=['x', 'x']), task=[1, 0])
  for history in (0, 1, 4):
    np.testing.assert_allclose(forests.run(hgpo, batch, history=history), [.5, -.5], atol=1e-5)


@functools.cache
def forest(seed):
  f = forests.chains(seed)
  return f, f.batch(toy)


@pytest.mark.parametrize('seed', [0, 1, 2])
@pytest.mark.parametrize('mode', [
    dict(), dict(std=True), dict(first=1), dict(first=1, std=True, alpha=2.), dict(history=0), dict(history=4, alpha=.5),
    dict(channel='format', gamma=.5), dict(base=True), dict(base=True, std=True, alpha=2.)], ids=str)
def test_twin(seed, mode):
  f, batch = forest(seed)
  np.testing.assert_allclose(forests.run(hgpo, batch, **mode), twin(f, **mode), rtol=2e-5, atol=5e-6)
