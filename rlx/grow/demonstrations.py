"""Episodes of a scripted speaker, as text and as steps to be imitated."""

from collections.abc import Callable

import numpy as np

from rlx.grow.tokenizer import Tokenizer, render, shown
from rlx.types import Action, Env, Group, Node, Task, Turn


def transcript(env: Env, task: Task, seed: int) -> tuple[list[tuple[str, str]], list]:
  """One scripted episode: [(observation, action)] and the environment's answers, each with the labels of its step.

  Raises:
    ValueError: the expert fell silent before the episode ended.
  """
  state, obs = env.reset(task, seed)
  speaker, said, answers = env.expert(task, seed), [], []
  text, label, heard = obs.text, obs.label, None
  while True:
    try:
      action = next(speaker) if heard is None else speaker.send(heard)
    except StopIteration as e:
      raise ValueError(f"the expert of task '{task.id}' stopped before its episode ended.") from e
    said.append((text, action))
    state, step = env.step(state, Action(action))
    answers.append((label, step))
    if step.end:
      return said, answers
    text, label, heard = step.obs, step.next, step.obs


def demonstrate(env: Env, task: Task, tok: Tokenizer, context: Callable, seed: int) -> Group:
  """One scripted episode as a group of demonstrated steps."""
  said, answers = transcript(env, task, seed)
  nodes, row = [], []
  for i, ((obs, text), (label, step)) in enumerate(zip(said, answers, strict=True)):
    history = [Turn(o, t) for o, t in said[:i]] + [Turn(obs)]
    ids = render(context(history, task), [n.ids for n in nodes], tok)
    fresh = not row or ids[:len(row)] != row
    new = ids if fresh else ids[len(row):]
    nodes.append(demonstration(i - 1, obs, new, fresh, text, shown(text, tok), step.end, dict(step.reward),
                               {**label, **step.label}, dict(step.metrics)))
    row = ids + nodes[-1].ids
  return Group(task, nodes)


def demonstration(parent, obs, context, fresh, text, ids, end, reward, label, metrics) -> Node:
  """A step that was shown, not sampled."""
  n = len(ids)
  return Node(parent=parent, obs=obs, context=context, fresh=fresh, text=text, ids=ids, sampled=np.ones(n, bool),
              logp=np.zeros(n, np.float32), stream={}, end=end, reward=reward, label={**label, 'source': 1}, metrics=metrics)
