"""Plays episodes of the sql environment for the tests beside this file."""

import random

from rlx.types import Action


def play(env, task, speaker):
  """(first observation, states, actions, steps) of a speaker: a generator as `expert` makes, or a list of texts."""
  state, first = env.reset(task, 0)
  states, actions, steps = [state], [], []
  texts = iter(speaker)
  said = next(texts)
  while True:
    state, step = env.step(state, Action(said))
    states.append(state)
    actions.append(said)
    steps.append(step)
    if step.end:
      return first, states, actions, steps
    said = texts.send(step.obs) if hasattr(texts, 'send') else next(texts)


def expert(env, task, kind, seed=0):
  """One kind of expert."""
  return env.rules.expert(task.data, kind, random.Random(seed))


def accuracy(env, tasks, kind=None):
  """Share of right answers of the mixed experts, or of one kind of them."""
  speakers = [env.expert(t, 0) if kind is None else expert(env, t, kind, i) for i, t in enumerate(tasks)]
  right = [play(env, t, s)[3][-1].metrics['correct'] for t, s in zip(tasks, speakers)]
  return sum(right) / len(right)
