"""IGPO (arXiv:2510.14967) and its released code (GuoqingWang1/IGPO@bff163b7): a worked example and an independent twin."""

import functools
import math
import random

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.igpo import igpo


def rewards(f, found, value, before, log):
  """Step -> what the answer gained by it, and last step -> the episode's return; a step that ends has no gain."""
  p = (lambda x: x) if log else math.exp
  gain = {}
  for steps, _ in found:
    for s, above in zip(steps[:-1], [before] + [value[s] for s in steps]):
      gain[s] = p(value[s]) - p(above)
  return gain, {steps[-1]: ret for steps, ret in found}


def normalised(pool, ddof, eps):
  if len(pool) < 2:
    return dict.fromkeys(pool, 0.)
  mean = sum(pool.values()) / len(pool)
  std = math.sqrt(sum((x - mean) ** 2 for x in pool.values()) / max(len(pool) - ddof, 1))
  return {s: (x - mean) / (std + eps) for s, x in pool.items()}


def twin(f, value, prompt, *, channel='task', probe='p_answer', mode='separate', gamma=1., log=False, ddof=1, eps=1e-6):
  through = [[] for _ in f.parent]      # discounted sums of the episodes through each step
  for group, found in forests.episodes(f, channel).items():
    gain, outcome = rewards(f, found, value[probe], prompt[probe][group], log)
    pools = [gain, outcome] if mode == 'separate' else [gain | outcome]
    z = {s: x for pool in pools for s, x in normalised(pool, ddof, eps).items()}
    for steps, _ in found:
      back = 0.
      for s in reversed(steps):
        back = z[s] + gamma * back
        through[s].append(back)
  return [sum(x) / len(x) if x else 0. for x in through]


def released(f, batch, counts, value, prompt, *, channel='task', gaps='carry', log=False):
  """[R, T]: the return-to-go of each token minus the mean over the prompt's rollouts of that at the same position."""
  through = {}                          # (step, token of it) -> differences
  for group, found in forests.episodes(f, channel).items():
    gain, outcome = rewards(f, found, value['p_answer'], prompt['p_answer'][group], log)
    rollouts = []
    for steps, _ in found:
      line, running = [], 0.            # of (step, token, return-to-go), from behind
      for s in reversed(steps):
        n_obs, n_tokens = counts(s)
        for k in reversed(range(n_obs + n_tokens)):
          running += (gain | outcome)[s] if k == n_obs + n_tokens - 1 else 0.
          if k < n_obs and gaps == 'reset':
            running = 0.
          line.append((s, k, running))
      rollouts.append(line[::-1])
    for line in rollouts:
      for t, (s, k, ret) in enumerate(line):
        there = [other[t][2] if t < len(other) else 0. for other in rollouts]      # beyond the end: padding counts
        through.setdefault((s, k), []).append(ret - sum(there) / len(there))
  out = np.zeros(batch.tokens.node.shape)
  for sequence in forests.sequences(batch):
    seen = {}
    for r, t, step, trained in sequence:
      k = seen[step] = seen.get(step, -1) + 1
      if trained and (step, k) in through:
        out[r, t] = np.mean(through[step, k])
  return out


# p .10 -> .30 -> .25 and F1 1 | .10 -> .10 -> .40 and F1 0: gains .2 -.05 | 0 .3
EXAMPLE = dict(parent=[-1, 0, 1, -1, 3, 4], task=[0, 0, 1, 0, 0, 0], prompt=dict(p_answer=np.log([.1], dtype=np.float32)),
               value=dict(p_answer=np.log([.3, .25, 1, .1, .4, 1])))


@pytest.mark.parametrize('mode, expected', [
    ('separate', [.2531, -.2765, .7071, -.2531, .4279, -.7071]), ('joint', [1.0746, 1.18, 1.9174, -1.0746, -.4636, -.611]),
    ('released', [.425, .325, .5, -.425, -.325, -.5])])
def test_worked_example(mode, expected):
  got = forests.run(igpo, toy.batch(**EXAMPLE), mode=mode)
  np.testing.assert_allclose(np.ravel(got), expected, atol=1.1e-4)


def test_gaps_of_the_released_code():
  # a tool token before each later step: returns 1.15 .95 1 | .3 .3 0 carried on, .2 -.05 1 | 0 .3 0 with a reset at tool tokens
  batch = toy.batch(**EXAMPLE, n_obs=[0, 1, 1] * 2)
  for gaps, half in (('carry', [.425, 0, .325, 0, .5]), ('reset', [.1, 0, -.175, 0, .5])):
    np.testing.assert_allclose(forests.run(igpo, batch, mode='released', gaps=gaps), [half, [-x for x in half]], atol=1e-5)


def test_positions_beyond_the_end_count():
  # one token, paid 0 | three, paid 1: returns 0 - - | 1 1 1, so the mean is .5 at each position
  # the only rollout of a prompt is its own mean
  batch = toy.batch([-1] * 3, group=[0, 0, 1], task=[0, 1, 5], n_tokens=[1, 3, 2], value=dict(p_answer=-1.),
                    prompt=dict(p_answer=np.float32([-1, -1])))
  got = forests.run(igpo, batch, mode='released')
  np.testing.assert_allclose(got, [[-.5, 0, 0], [.5, .5, .5], [0, 0, 0]], atol=1e-6)


@functools.cache
def forest(grown, seed, ragged=True):
  f, rng = getattr(forests, grown)(seed), random.Random(seed)
  # an observation before a first step would stand behind the prompt; positions are those of the answer, so there is none here
  counts = lambda s: (0 if f.parent[s] < 0 else s % 3 if ragged else 1, 1 + s % 2 if ragged else 2)
  n_obs, n_tokens = zip(*map(counts, range(len(f.parent))))
  value = {k: [rng.uniform(-3., -.05) for _ in f.parent] for k in ('p_answer', 'other')}
  prompt = {k: [rng.uniform(-3., -.05) for _ in range(7)] for k in value}
  columns = dict(value=value, prompt={k: np.float32(x) for k, x in prompt.items()})
  return f, f.batch(toy, n_obs=n_obs, n_tokens=n_tokens, **columns), counts, value, prompt


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 2)])
@pytest.mark.parametrize('mode', [
    dict(), dict(gamma=.75, log=True), dict(mode='joint'),
    dict(mode='joint', probe='other', gamma=.5, ddof=0, eps=.125),
    dict(channel='format', ddof=0), dict(channel='format', mode='joint', log=True)], ids=str)
def test_twin(grown, seed, mode):
  f, batch, _, value, prompt = forest(grown, seed)
  want = twin(f, value, prompt, **mode)
  np.testing.assert_allclose(forests.run(igpo, batch, **mode), want, rtol=5e-5, atol=1e-5)


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('chains', 2), ('trees', 0), ('trees', 1)])
@pytest.mark.parametrize('mode, ragged', [
    (dict(), True), (dict(channel='format', log=True), True), (dict(), False),
    (dict(gaps='reset'), False), (dict(gaps='reset', channel='format'), False)], ids=str)
def test_released_twin(grown, seed, mode, ragged):
  """With 'reset' the gaps of all rollouts stand at the same positions: what stands on a tool token itself is not asked."""
  f, batch, counts, value, prompt = forest(grown, seed, ragged)
  want = released(f, batch, counts, value, prompt, **mode)
  np.testing.assert_allclose(forests.run(igpo, batch, mode='released', **mode), want, rtol=2e-5, atol=5e-6)


def test_unknown_modes():
  for wrong in (dict(mode='v2'), dict(mode='released', gaps='skip')):
    with pytest.raises(ValueError):
      igpo(toy.batch(**EXAMPLE), **wrong)
