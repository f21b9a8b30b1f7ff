"""ARES again: given targets, the form of the paper (arXiv:2510.08457, sec. 3.2), and a twin of both forms on small forests."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.transforms.ares import ares


def counting(counts, group, task, **kw):
  """One-step episodes with so many triggers above a threshold of .5 each, windows of one token."""
  b = toy.batch([-1] * len(counts), group=group, task=task, n_tokens=[c + 1 for c in counts], stream=dict(entropy=1.),
                role=dict(trigger=1))
  extra = ares(b, window=1, theta=.5, **kw).nodes.reward['ares'] - b.nodes.reward['task']
  return np.asarray(extra)


@pytest.mark.parametrize('task, count, expected', [
    ([1, 1, 1], 20, -.5), ([1, 1, 1], 11, 0), ([1, 0], 20, -.5), ([1, 0], 12, 0), ([1, 0, 0, 0], 10, .457525),
    ([1, 0, 0, 0], 2, -.1),
    # by hand, m = 1.5 | 2.5 | 3.5: easy d = 3: x = 1.5, 1.125 / 4 / 3.5 * .5; medium d = -4: x = 1.5, 2.25 / 6 / 5.5 * .5
    ([1, 1, 1], 13, -.08035714), ([1, 0], 6, -.03409091)])
def test_released_and_right(task, count, expected):
  got = counting([count] + [10] * (len(task) - 1), 0, task, target=(10, 10, 10))
  np.testing.assert_allclose(got[0], expected, atol=1e-5)


def test_released_and_wrong():
  # at least sigmoid(0) = 1/2 of the cap .5 .5 .6, times .6 .8 1; d = 6, m = 3.5: sigmoid(2.5 / 3) .6
  for task, share in ([1, 1, 0], .6), ([1, 0, 0], .8):
    np.testing.assert_allclose(counting([10, 10, 4], 0, task, target=(10, 10, 10))[2], .5 * .5 * share, atol=1e-6)
  got = counting([10, 16], 0, [0, 0], target=(10, 10, 10))
  np.testing.assert_allclose(got, [.3, .6 / (1 + np.exp(-2.5 / 3))], atol=1e-6)


def test_paper():
  # easy, N = 4 6 8, n* = 5: lambda = (6 - 5) / (8 / 3); only the wrong one pays, 3 too many
  task, lam = [1, 1, 0], 1 / (8 / 3)
  np.testing.assert_allclose(counting([4, 6, 8], 0, task, mode='paper', target=(5., 0., 0.)), [0, 0, -3 * lam], atol=1e-5)
  np.testing.assert_allclose(counting([4, 6, 8], 0, task, mode='paper'), 0, atol=1e-6)        # n* = mean N: lambda is 0
  # hard, N = 2 6 -> mean 4, n* = 3: lambda 1 / 4; too few is fined: 1; medium: 1 right of 2, |d|
  np.testing.assert_allclose(counting([2, 6], 0, [0, 0], mode='paper', target=(0., 0., 3.)), [-.25, 0], atol=1e-5)
  np.testing.assert_allclose(counting([6, 2], 0, [1, 0], mode='paper', target=(0., 3., 0.)), [0, -.25], atol=1e-5)


PARENT, END = [-1, 0, 0, -1, 3, -1, -1, 6, 6, -1, -1], [0, 1, 2, 0, 1, 3, 0, 1, 0, 1, 1]
GROUP = [0] * 6 + [1] * 5


def forest(seed):
  """Two prompts, with shared steps, a failed and an abandoned path, an episode without a verdict."""
  rng = np.random.default_rng(seed)
  b = toy.batch(PARENT, group=GROUP, end=END, task=rng.integers(0, 2, 11), n_tokens=rng.integers(3, 9, 11), n_obs=1, pack=2,
                judged=dict(task=np.arange(11) != 9))
  shape = b.tokens.node.shape
  entropy = np.zeros(shape)
  per_step = {i: rng.uniform(size=9) for i in range(11)}      # a shared step has the same numbers in every row
  trigger = {i: rng.uniform(size=9) < .7 for i in range(11)}
  marks, seen = np.zeros(shape, bool), {}
  for r, t in np.argwhere(np.asarray(b.tokens.sampled)):
    i, s = int(b.tokens.node[r, t]), int(b.tokens.segment[r, t])
    k = seen[r, s, i] = seen.get((r, s, i), -1) + 1
    entropy[r, t], marks[r, t] = per_step[i][k], trigger[i][k]
  stream, role = dict(entropy=jnp.asarray(entropy, jnp.float32)), dict(trigger=jnp.asarray(marks))
  size = [int(x) for x in np.bincount(np.asarray(b.tokens.node)[np.asarray(b.tokens.mask)], minlength=11)]
  b = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, stream=stream, role=role))
  return b, [per_step[i][:size[i]] for i in range(11)], [trigger[i][:size[i]] for i in range(11)]


def twin(b, entropy, trigger, *, mode, window=2, quantile=.8, alpha=.5, target=None):
  task, parent = np.asarray(b.nodes.reward['task']), PARENT
  path = lambda i: (path(parent[i]) if parent[i] >= 0 else []) + [i]
  on = [i for i in range(11) if END[i] in (1, 2) and 9 not in path(i)]
  windows = lambda i: [(k, np.mean(entropy[i][k + 1:k + 1 + window])) for k in range(len(entropy[i]) - window)]
  if mode == 'released':
    each = [[m for s in path(i) for _, m in windows(s)] for i in on]
    theta = np.median([np.quantile(x, quantile) for x in each if x])
    counts = lambda m: m >= theta
  else:
    theta = np.mean([np.quantile(np.concatenate([entropy[s] for s in path(i)]), quantile) for i in on])
    counts = lambda m: m > theta
  number = {i: sum(bool(trigger[s][k]) and counts(m) for s in path(i) for k, m in windows(s)) for i in on}
  right = {i: sum(task[s] for s in path(i)) >= 1 for i in on}
  bucket = {}
  for g in (0, 1):
    share = np.mean([right[i] for i in on if GROUP[i] == g])
    bucket.update({i: 0 if share >= 2 / 3 else 1 if share >= 1 / 3 else 2 for i in on if GROUP[i] == g})
  out = task.copy()
  for i in on:
    q = bucket[i]
    pool = [number[j] for j in on if bucket[j] == q]
    goal = target[q] if target else round(np.mean(pool)) if mode == 'released' else np.mean(pool)
    d = number[i] - goal
    if mode == 'paper':
      strength = max(0, (np.mean(pool) - goal) / (np.var(pool) + 1e-6))
      out[i] -= 0 if right[i] else strength * (max(d, 0), abs(d), max(-d, 0))[q]
      continue
    m, kappa, temp, cap = max(1, (.15, .25, .35)[q] * max(goal, 1)), (2, 3, 4)[q], (2, 2.5, 3)[q], alpha * (1, 1, 1.2)[q]
    huber = lambda x: x * x / 2 / kappa if x <= kappa else x - kappa / 2
    sat = lambda x: cap / (1 + np.exp(-x / temp))
    if not right[i]:
      out[i] += sat(max(d - m, 0)) * (.6, .8, 1)[q]
    elif q == 2:
      out[i] += sat(d + m) if d >= -m else -min(cap, .5 * huber(-d - m) / (m + kappa) * cap)
    else:
      out[i] -= min(cap, huber(max((d, abs(d))[q] - m, 0)) / (m + kappa) * cap)
  return out


@pytest.mark.parametrize('mode', [dict(mode='released'), dict(mode='paper'), dict(mode='paper', target=(.5, .25, 1.)),
                                  dict(mode='released', alpha=.25, target=(1, 2, 3))], ids=str)
def test_twin(mode):
  run = jax.jit(functools.partial(ares, window=2, quantile=.8, **mode))
  for seed in range(12):
    b, entropy, trigger = forest(seed)
    wide = 72      # one shape
    b = dataclasses.replace(b, tokens=jax.tree.map(
        lambda x: jnp.pad(x, ((0, 0), (0, wide - x.shape[1])), constant_values=0 if x.dtype != jnp.int32 else -1), b.tokens))
    got = run(b).nodes
    np.testing.assert_allclose(got.reward['ares'], twin(b, entropy, trigger, **mode), atol=2e-5)
    np.testing.assert_array_equal(got.judged['ares'], b.nodes.judged['task'])
    np.testing.assert_array_equal(got.reward['task'], b.nodes.reward['task'])
