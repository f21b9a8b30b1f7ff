"""OPRL / iStar (arXiv:2509.19199) and its released code (Tongyi-ConvAI/Qwen-Character@1de87a22) against a worked example and a twin.

The released code takes the step baseline from the first step of each rollout only ('first'); its notes and the paper say all steps
of the prompt ('all').
"""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.oprl import oprl


def whitened(x, weight):
  """Over the tokens: each step as often as it has trained ones."""
  count = sum(weight[s] for s in x)
  mean = sum(weight[s] * v for s, v in x.items()) / count
  variance = sum(weight[s] * (v - mean) ** 2 for s, v in x.items()) / (count - 1)
  return {s: (v - mean) / math.sqrt(variance + 1e-8) for s, v in x.items()}


def twin(f, batch, *, channel='task', prm='prm_logp', ref='logp', beta=.05, weight=1., baseline='rloo', steps='all'):
  column = lambda name: np.asarray(batch.tokens.logp if name == 'logp' else batch.tokens.stream[name]).tolist()
  new, old = column(prm), column(ref)
  r, n_tokens = [0.] * len(f.parent), [0] * len(f.parent)
  for sequence in forests.sequences(batch):
    for row, t, step, trained in sequence:
      if trained:
        r[step] += beta * (new[row][t] - old[row][t])
        n_tokens[step] += 1
  found = forests.episodes(f, channel)
  live = {group: sorted({s for path, _ in of for s in path}) for group, of in found.items()}
  largest = max(abs(r[s]) for of in live.values() for s in of)
  r = [x / (largest + 1e-6) for x in r]
  episode, step = [], {}
  for group, of in found.items():
    pool = [r[s] for s in live[group]] if steps == 'all' else [r[path[0]] for path, _ in of]
    own = lambda n: n / (n - 1) if baseline == 'rloo' and n > 1 else float(n > 1 or baseline != 'rloo')
    mean = sum(ret for _, ret in of) / len(of)
    episode += [(path, (ret - mean) * own(len(of))) for path, ret in of]
    step.update({s: (r[s] - sum(pool) / len(pool)) * own(len(pool)) for s in live[group]})
  episode = {s: x for s, x in enumerate(forests.over_paths(f, episode)) if s in step}
  if baseline == 'reinforce_pp':
    episode, step = whitened(episode, n_tokens), whitened(step, n_tokens)
  return np.array([episode[s] + weight * step[s] if s in step else 0. for s in range(len(f.parent))])


def close(batch, got, want, **tolerance):
  """`got` may stand on steps or on tokens."""
  if np.ndim(got) == 2:
    want = np.where(batch.tokens.mask, np.asarray(want)[np.asarray(batch.tokens.node)], 0.)
  np.testing.assert_allclose(got, want, **tolerance)


# three rollouts of two steps, q = 2 -1 | 4 0 | -3 1, returns 10 0 10: step rewards .5 -.25 | 1 0 | -.75 .25 of the largest
EXAMPLE = dict(parent=[-1, 0, -1, 2, -1, 4], task=[0, 10, 0, 0, 0, 10], logp=-5., stream=dict(prm_logp=[-3., -6, -1, -5, -8, -4]))
EPISODE = np.array([5, 5, -10, -10, 5, 5])


@pytest.mark.parametrize('mode, expected', [
    (dict(steps='first'), EPISODE + [.375, -.75, 1.125, -.375, -1.5, 0]),
    (dict(steps='first', weight=.5), EPISODE + np.array([.1875, -.375, .5625, -.1875, -.75, 0])),
    # the mean of all six is .125: r - .125, times 6 / 5
    (dict(steps='all'), EPISODE + [.45, -.45, 1.05, -.15, -1.05, .15]),
    # without leave-one-out, and without a deviation: returns minus 6.66667
    (dict(steps='first', baseline='grpo'), EPISODE * 2 / 3 + [.25, -.5, .75, -.25, -1., 0]),
    (dict(steps='all', baseline='grpo'), EPISODE * 2 / 3 + [.375, -.375, .875, -.125, -.875, .125]),
    # squares 133.333 and 1.84375 over 5: deviations 5.16398 and .607248, each part by its own
    (dict(steps='all', baseline='reinforce_pp'),
     EPISODE / 1.5 / 5.163978 + np.array([.375, -.375, .875, -.125, -.875, .125]) / .607248)], ids=str)
def test_worked_example(mode, expected):
  batch = toy.batch(**EXAMPLE)
  close(batch, forests.run(oprl, batch, **mode), expected, atol=3e-5)


@functools.cache
def forest(grown, seed, lone=True):
  f = getattr(forests, grown)(seed)
  if not lone:                           # what the only rollout of a prompt gets before whitening is open: it failed
    f = f._replace(end=[3 if g == 1 and e else e for g, e in zip(f.group, f.end)])
  batch = f.batch(toy, n_tokens=[1 + (i * 5 + seed) % 3 for i in range(len(f.parent))], n_obs=1)
  rng = np.random.default_rng(seed)
  draw = lambda: -rng.exponential(size=batch.tokens.node.shape)
  batch = forests.with_stream(batch, prm_logp=draw(), judge=draw(), ref_logp=draw(), before=draw())
  tokens = type(batch.tokens)(**{**vars(batch.tokens), 'logp': batch.tokens.stream['before']})
  return f, type(batch)(nodes=batch.nodes, tokens=tokens, prompt=batch.prompt)


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('chains', 1), ('trees', 0), ('trees', 2)])
@pytest.mark.parametrize('mode', [
    dict(), dict(ref='ref_logp', beta=.5, weight=.25), dict(prm='judge', channel='format'), dict(baseline='grpo'),
    dict(baseline='reinforce_pp'), dict(baseline='reinforce_pp', weight=.5, channel='format'), dict(steps='first'),
    dict(steps='first', baseline='grpo', weight=2.), dict(steps='first', baseline='reinforce_pp')], ids=str)
def test_twin(grown, seed, mode):
  if grown == 'trees' and mode.get('steps') == 'first':
    pytest.skip('how often a first step that rollouts share would count is open')
  f, batch = forest(grown, seed, lone=mode.get('baseline') != 'reinforce_pp')
  close(batch, forests.run(oprl, batch, **mode), twin(f, batch, **mode), rtol=5e-5, atol=1e-5)


def test_the_only_rollout_of_a_prompt():
  # nothing to compare its return with; its two steps .5 and 1 (of the largest) stand against each other
  batch = toy.batch([-1, 0], task=[0, 7], logp=-5., stream=dict(prm_logp=[-4., -3.]))
  close(batch, forests.run(oprl, batch), [-.5, .5], atol=1e-5)


def test_unknown_modes():
  for wrong in (dict(baseline='ppo'), dict(steps='last')):
    with pytest.raises(ValueError):
      oprl(toy.batch(**EXAMPLE), **wrong)
