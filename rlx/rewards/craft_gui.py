"""Pays steps on a screen: actions by rule, answers by a judge."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from rlx.types import Episode

writes = ('reward/gui', 'judged/gui')

PROMPT = """A question about a screen was answered. How well does the answer agree with the right one?

Question:
{question}

Right answer:
{answer}

Given answer:
{said}

End with one line that says 'Score:' and a number from 0 (not at all) to 10 (entirely)."""


def craft_gui(episode: Episode, *, judge: Callable[..., Awaitable[str | None]],
              gold: str | Callable[[Episode], Sequence[Mapping]] = 'steps',
              read: Callable[[str], Mapping | None] | None = None, weight_format: float = 1., weight_type: float = 1.,
              weight_args: float = 1., weight_judged: float = 1., prompt: str = PROMPT) -> Awaitable[dict[str, list]]:
  """The mixed reward of CRAFT-GUI (arXiv:2508.11360), step by step.

    an action:  weight_format [in form] + weight_type [type is right] + weight_args [type is right] share of right arguments
    an answer:  weight_format [in form] + weight_judged score / 10

  That actions are paid for form, type and arguments by rule, and answers by a model, is the paper's; the weights, the gate
  on the type and the words of the prompt are ours. Its curriculum (tasks by their difficulty) is no part of this.

  Args:
    episode: its steps are held against the gold steps one by one; steps beyond them get 0.
    judge: scores answers.
    gold: where the task's data has its steps, or a function of the episode that gives them: dict(type, args) for an action,
      with args a mapping, or dict(question, answer) for a step that answers.
    read: text -> dict(type, args), None where it is not in form; None: `action`, a JSON object in <action>. An answer is the
      argument 'text', or without one all that was said.
    weight_format, weight_type, weight_args, weight_judged: weights.
    prompt: with the fields {question}, {answer} and {said}.

  Returns:
    A coroutine of {'gui': one float a step}; None on an answer the judge gave no score.

  Raises:
    ValueError: the task has no steps under that key.

  Proof: guess: the weights and how an argument is compared.
  """
  steps, read = gold(episode) if callable(gold) else _gold(episode, gold), read or action

  async def one(node, want):
    said = read(node.text)
    form = weight_format * (said is not None)
    if 'answer' in want:
      text = (said or {}).get('args', {}).get('text', node.text.strip())
      told = score(await judge(prompt.format(question=want.get('question', node.obs), answer=want['answer'], said=text)))
      return None if told is None else form + weight_judged * told
    if said is None or not same(said.get('type'), want.get('type')):
      return form
    args, given = want.get('args', {}), said.get('args', {})
    right = sum(k in given and same(given[k], v) for k, v in args.items()) / len(args) if args else 1.
    return form + weight_type + weight_args * right

  async def paid():
    known = await asyncio.gather(*(one(node, want) for node, want in zip(episode.nodes, steps, strict=False)))
    return {'gui': [*known, *[0.] * (len(episode.nodes) - len(known))]}
  return paid()


craft_gui.grain = 'episode'


def action(text: str) -> Mapping | None:
  """The JSON object in the last <action>, if it has a 'type' and its 'args', where it has any, are a mapping; else None."""
  found = re.findall(r'<action>(.*?)</action>', text, re.DOTALL)
  try:
    said = json.loads(found[-1]) if found else None
  except ValueError:
    return None
  return said if isinstance(said, Mapping) and 'type' in said and isinstance(said.get('args', {}), Mapping) else None


def same(said: Any, want: Any) -> bool:
  """Equal, texts but for case and spaces; a point [x, y] also where it lies in the box [left, top, right, bottom]."""
  number = lambda v: isinstance(v, int | float) and not isinstance(v, bool)
  said, want = (list(v) if isinstance(v, tuple) else v for v in (said, want))
  both = isinstance(said, list) and isinstance(want, list)
  if both and len(said) == 2 and len(want) == 4 and all(map(number, said + want)):
    return want[0] <= said[0] <= want[2] and want[1] <= said[1] <= want[3]
  fold = lambda v: ' '.join(v.casefold().split()) if isinstance(v, str) else v
  return fold(said) == fold(want)


def score(text: str | None) -> float | None:
  """The last 'Score: x', x from 0 to 10, as a share; None where there is none."""
  said = re.findall(r'^\W*score\W+(\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*$', text or '', re.IGNORECASE | re.MULTILINE)
  return float(said[-1]) / 10 if said and float(said[-1]) <= 10 else None


def _gold(episode, key):
  data = episode.task.data
  steps = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
  if steps is None:
    raise ValueError(f"craft_gui needs tasks whose data has '{key}'; task {episode.task.id} has none")
  return steps
