"""A run so small that a test can afford it: a one-turn arithmetic game in the file itself, from scratch."""

import dataclasses
import random
from typing import NamedTuple

import jax.numpy as jnp

from configs import base
from rlx.types import Obs, Stateful, Step, Task


class Sums(NamedTuple):
  """Add two digits; wrong answers are told once and may be mended: at most two turns."""
  seed: int = 0
  writes = ('reward/task', 'label/state')

  def tasks(self, split):
    if split not in ('train', 'held'):
      raise ValueError(f"no split '{split}'; there are train and held")
    digits = [(a, b) for a in range(5) for b in range(5)]
    chosen = [p for i, p in enumerate(digits) if (i % 5 == 0) == (split != 'train')]
    return [Task(f'{a}+{b}', dict(a=a, b=b, answer=f' {a + b} .')) for a, b in chosen]

  def reset(self, task, seed):
    del seed
    return (task.data['a'] + task.data['b'], 0), Obs(f"{task.data['a']} + {task.data['b']} =", {'state': task.id})

  def step(self, state, action):
    total, turn = state
    right = action.text.strip() == f'{total} .'
    if right or turn == 1:
      return (total, turn + 1), Step('', {'task': float(right)}, 1, metrics={'correct': float(right), 'valid': 1.})
    return (total, turn + 1), Step(' no ,', {'task': 0.}, 0, metrics={'valid': 1.}, next={'state': 'again'})

  def expert(self, task, seed):
    draw = random.Random(f'{task.id}:{seed}')
    total = task.data['a'] + task.data['b']
    wrong = draw.choice([n for n in range(9) if n != total])
    if draw.random() < .5:
      yield f' {wrong} .'
    yield f' {total} .'


def sums(*, seed: int = 0) -> Sums:
  return Sums(seed)


def novel() -> Stateful:
  """A reward with a memory: what has been said most often pays least."""
  def update(seen, episode):
    pays = []
    for n in episode.nodes:
      seen = {**seen, n.text: seen.get(n.text, 0) + 1}
      pays.append(1. / seen[n.text])
    return seen, dict(novel=pays)
  return Stateful(dict, update)


novel.writes = ('reward/novel',)


def counted() -> Stateful:
  """A transform with a memory: how many batches there were before, as a stream."""
  def update(seen, batch):
    stream = dict(batch.tokens.stream, seen=jnp.full(batch.tokens.logp.shape, seen))
    return seen + 1., dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=stream))
  return Stateful(lambda: jnp.float32(0), update)


def get_config():
  c = base.get_config()
  c.name = 'tiny'
  c.env = dict(name='tests.configs.tiny.sums')
  c.tokenizer = dict(name='bpe', size=300)
  c.models = dict(policy=dict(name='transformer', layers=1, dim=16, heads=2, ff=32))
  c.sampler.update(slots=16, width=48, turn=6, chunk=8, stop=('.',))
  c.on_policy_prompts = 4
  c.explorer = dict(name='flat', width=4)
  c.buckets = (dict(rows=8, width=48, nodes=48, prompts=8),)
  c.minibatch = 8
  c.tracks = dict(main=dict(estimator=('grpo',), selector=(), average='token_mean', loss=('ppo_clip',), coef=1.))
  c.tx = dict(name='adamw', learning_rate=1e-3)
  warm = dict(main=dict(estimator=('ones',), selector=(), average='token_mean', loss=('sft',), coef=1.))
  c.phases = (dict(name='warm', steps=3, source=dict(name='expert', count=20), tracks=warm),
              dict(name='rl', steps=3, source='rollout'))
  c.eval = dict(splits=dict(held='held'), every=0, temperatures=(1.,), prompts=4, phases=None)
  c.summary = (('held', 'eval/held/1/accuracy'),)
  c.cache = False
  return c
