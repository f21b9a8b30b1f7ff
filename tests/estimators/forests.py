"""Random forests for the twins, as plain lists: chains, and trees with shared prefixes.

Every forest holds, beside ordinary prompts, a prompt with one episode, one whose episodes all have the same return, one
without any episode (all failed or abandoned), episodes cut off by a limit, failed and abandoned ones, and steps without a
verdict.
"""

import dataclasses
import functools
import inspect
import random
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Forest(NamedTuple):
  """One entry a step; parents stand before children, groups are contiguous."""
  parent: list
  group: list
  end: list
  reward: dict   # channel -> list of floats
  judged: dict   # channel -> list of bools
  state: list    # the observation's text

  def batch(self, toy, label={}, **columns):
    """The same forest as an rlx batch, made by `toy.batch`."""
    return toy.batch(self.parent, group=self.group, end=self.end, judged=self.judged, label=dict(state=self.state) | label,
                     **columns, **self.reward)


def path(parent, i):
  """The steps from a first step to step i."""
  return (path(parent, parent[i]) if parent[i] >= 0 else []) + [i]


def episodes(forest, channel):
  """group -> list of (path, return), over the episodes that ended (done or cut off) and were judged at every step."""
  found = {}
  for i, end in enumerate(forest.end):
    steps = path(forest.parent, i)
    if end in (1, 2) and all(forest.judged.get(channel, [True] * len(forest.end))[s] for s in steps):
      found.setdefault(forest.group[i], []).append((steps, sum(forest.reward[channel][s] for s in steps)))
  return found


def over_paths(forest, advantages):
  """One number a step: the mean of the `(path, number)` pairs of the paths that run through it, 0 where there is none."""
  out = []
  for i in range(len(forest.parent)):
    through = [a for steps, a in advantages if i in steps]
    out.append(sum(through) / len(through) if through else 0.)
  return out


def _grow(seed, branch):
  rng = random.Random(seed)
  f = Forest([], [], [], dict(task=[], format=[], invalid=[]), dict(format=[]), [])

  def step(parent, group, flat, single):
    f.parent.append(parent)
    f.group.append(group)
    f.end.append(None)
    f.reward['task'].append(0. if flat or single else rng.choice([0., 0., 0., .25, -.5]))
    f.reward['format'].append(rng.choice([0., .125]))
    f.reward['invalid'].append(rng.choice([0., 0., -.125]))
    f.judged['format'].append(rng.random() > .08)
    f.state.append(rng.choice('abcd'))
    return len(f.parent) - 1

  for group, kind in enumerate(['many', 'single', 'flat', 'lost', 'many', 'pair', 'many']):
    first = len(f.parent)
    frontier = [step(-1, group, kind == 'flat', kind == 'single')
                for _ in range(dict(many=rng.randint(3, 5), flat=4, lost=3, pair=2, single=1)[kind])]
    for depth in range(1, 5):
      grown = []
      for at in frontier:
        for _ in range(branch(rng) if kind != 'single' and depth < 4 else int(rng.random() < .7)):
          grown.append(step(at, group, kind == 'flat', kind == 'single'))
      frontier = grown
    for i in range(first, len(f.parent)):
      if i in f.parent:
        f.end[i] = 0
      else:
        f.end[i] = {'lost': rng.choice([0, 3]), 'single': 1, 'pair': 1}.get(kind, rng.choice([1, 1, 1, 1, 2, 2, 0, 3]))
        f.reward['task'][i] += 1. if kind in ('flat', 'single') else rng.choice([0., 1.])
  return f


def chains(seed):
  """Rollouts of 1 to 5 steps that share nothing."""
  return _grow(seed, lambda rng: int(rng.random() < .75))


def trees(seed):
  """Rollouts that share prefixes: a step has 0 to 2 next steps."""
  return _grow(seed, lambda rng: rng.choice([0, 1, 1, 2]))


NODES, ROWS, WIDTH = 112, 48, 48   # one shape for all: an estimator is compiled once a mode


def padded(batch):
  """The batch with steps, rows and columns of padding, up to `NODES`, `ROWS` and `WIDTH`."""
  def fill(x, shape, value):
    return jnp.pad(x, [(0, s - d) for s, d in zip(shape, x.shape)], constant_values=value)
  first = dict(parent=-1, node=-1, segment=-1)

  def pad(table, shape):
    columns = {f.name: getattr(table, f.name) for f in dataclasses.fields(table)}
    return dataclasses.replace(table, **{
        k: jax.tree.map(lambda x: fill(x, shape, first.get(k, 0)), v) for k, v in columns.items()})
  return dataclasses.replace(batch, nodes=pad(batch.nodes, (NODES,)), tokens=pad(batch.tokens, (ROWS, WIDTH)))


@functools.cache
def _jitted(estimator, static):
  return jax.jit(lambda batch, traced: estimator(batch, **dict(static), **traced))


def run(estimator, batch, **mode):
  """The estimator, jitted, on the padded batch, its floats traced; the answer without the padding."""
  mode = {k: p.default for k, p in inspect.signature(estimator).parameters.items() if k != 'batch'} | mode
  traced = {k: jnp.float32(v) for k, v in mode.items() if isinstance(v, float)}
  static = tuple((k, v) for k, v in mode.items() if k not in traced)
  answer = _jitted(estimator, static)(padded(batch), traced)

  def cut(x):
    whole, x = np.asarray(x), np.asarray(x)
    x = x[:len(batch.nodes.parent)] if x.ndim == 1 else x[:batch.tokens.node.shape[0], :batch.tokens.node.shape[1]]
    assert np.count_nonzero(whole) == np.count_nonzero(x), 'padding has to stay 0'
    return x
  return jax.tree.map(cut, answer)


def with_stream(batch, **columns):
  """The batch with `[R, T]` columns put into its stream."""
  stream = dict(batch.tokens.stream) | {k: jnp.asarray(v, jnp.float32) for k, v in columns.items()}
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=stream))


def sequences(batch):
  """The token rows as lists: one a sequence, of (row, column, step, trained)."""
  node, segment, mask = (np.asarray(x).tolist() for x in (batch.tokens.node, batch.tokens.segment, batch.tokens.mask))
  found = {}
  for r, row in enumerate(segment):
    for t, s in enumerate(row):
      if s >= 0:
        found.setdefault((r, s), []).append((r, t, node[r][t], mask[r][t]))
  return list(found.values())
