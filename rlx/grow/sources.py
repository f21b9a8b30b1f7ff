"""Where finished prompts come from: the policy's own rollouts, scripted experts, files.

A source is a factory whose runtime keywords (`grow`, `env`, `tokenizer` ...) the loop supplies; it gives an endless iterator of
groups. `start` is the number of groups already taken, so that a run that was interrupted goes on where it was.
"""

import functools
import itertools
import json
from collections.abc import Callable, Iterator

import numpy as np

from rlx.grow.demonstrations import demonstrate, demonstration
from rlx.grow.tokenizer import Tokenizer, render, shown
from rlx.types import Env, Group, Task, Turn


def rollout(*, grow: Callable[[], Iterator[Group]]) -> Iterator[Group]:
  """The policy's own rollouts: `grow()` samples tasks from the curriculum and grows them; a step ends when all have ended."""
  while True:
    yield from grow()


def expert(*, env: Env, tokenizer: Tokenizer, context: Callable, start: int = 0, count: int = 4000, split: str = 'train',
           seed: int = 0) -> Iterator[Group]:
  """A scripted speaker acts in the environment; its texts are encoded once, as demonstrations.

  Args:
    env: an environment with `expert(task, seed)`.
    tokenizer: encodes observations and the expert's actions.
    context: what a step is shown of its path.
    start: groups already taken.
    count: episodes that are played; after them come passes over the same ones, each in its own order.
    split: which tasks.
    seed: of the orders and the experts.

  Yields:
    One episode a group: `logp` 0, `sampled` True, `label['source']` 1 (so only losses without a ratio may see them).

  Raises:
    ValueError: the environment has no expert.
  """
  if not hasattr(env, 'expert'):
    raise ValueError(f"the environment {type(env).__name__} has no scripted expert: source 'expert' cannot be used.")
  tasks = env.tasks(split)
  order = np.random.default_rng((seed, 0xE)).permutation(len(tasks))
  played: list[Group] = []
  for i in itertools.count(start):
    epoch, place = divmod(i, count)
    pick = place if not epoch else int(_order(seed, epoch, count)[place])
    while len(played) <= pick:
      task = tasks[int(order[len(played) % len(tasks)])]
      played.append(demonstrate(env, task, tokenizer, context, seed + len(played)))
    group = played[pick]
    yield Group(group.task, group.nodes, group.prompt, group.metrics, i)


@functools.lru_cache(maxsize=4)
def _order(seed, epoch, count):
  return np.random.default_rng((seed, epoch)).permutation(count)


def jsonl(*, path: str, tokenizer: Tokenizer, context: Callable | None = None, start: int = 0, seed: int = 0, prompt: str = 'prompt',
          response: str = 'response', chosen: str = 'chosen', rejected: str = 'rejected') -> Iterator[Group]:
  """Demonstrations or preference pairs from a file, one a line, in passes of random order.

  Args:
    path: lines of `{prompt, response}`, or of `{prompt, chosen, rejected}`: a pair becomes two steps with `label['chosen']` 1 and 0.
    tokenizer: encodes them, once.
    context: what is shown of a prompt; None: the prompt.
    start: groups already taken.
    seed: of the orders.
    prompt, response, chosen, rejected: the keys.

  Raises:
    ValueError: a line that is not JSON or lacks a key; the message names file and line.
  """
  groups = []
  with open(path, encoding='utf-8') as f:
    for number, line in enumerate(f, 1):
      if not line.strip():
        continue
      try:
        row = json.loads(line)
        texts = [(row[chosen], 1), (row[rejected], 0)] if chosen in row else [(row[response], 1)]
        if not isinstance(row[prompt], str):
          raise TypeError(f'the prompt is {row[prompt]!r}')
        task = Task(f'{path}:{number}', row)
        ids = render(context([Turn(row[prompt])], task) if context else [row[prompt]], [], tokenizer)
        nodes = [demonstration(-1, row[prompt], ids, True, text, shown(text, tokenizer), 1, {'task': float(good)},
                               {'chosen': good}, {}) for text, good in texts]
      except (ValueError, KeyError, TypeError) as e:
        raise ValueError(f"'{path}' line {number}: {type(e).__name__} {e}; needed are '{prompt}' and '{response}', "
                         f"or '{prompt}', '{chosen}' and '{rejected}'.") from e
      groups.append(Group(task, nodes))
  if not groups:
    raise ValueError(f"'{path}' holds no line.")
  for i in itertools.count(start):
    epoch, place = divmod(i, len(groups))
    group = groups[int(_order(seed, epoch, len(groups))[place])]
    yield Group(group.task, group.nodes, index=i)
