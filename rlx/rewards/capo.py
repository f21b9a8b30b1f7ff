"""Marks the steps of an episode that a judge, asked several times, finds wrong."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping

from rlx.rewards._asking import attempt
from rlx.types import Episode

writes = ('reward/process', 'judged/process')

PROMPT = """A task and an attempt at it are given. Find the steps of the attempt that are wrong. Judge each step by itself.

Task:
{task}
{answer}
Attempt:
{attempt}

End with one line that says 'Wrong steps:' and their numbers, for example
Wrong steps: 2, 5
or, if there are none,
Wrong steps: none"""
VOTES = dict(intersection=lambda said, of: said == of, majority=lambda said, of: 2 * said >= of, union=lambda said, of: said > 0)


def capo(episode: Episode, *, judge: Callable[..., Awaitable[str | None]], critiques: int = 4, vote: str = 'intersection',
         answer: str | None = 'answer', prompt: str = PROMPT) -> Awaitable[dict[str, list]]:
  """The steps a generative judge calls wrong, by a vote over its critiques (CAPO, arXiv:2508.02298).

    process_j = -1 if v_j is enough of k, else 0,   v_j: critiques that list step j among the wrong ones

  'intersection': all k (the paper's choice for small policies); 'majority': at least k / 2; 'union': one is enough. The
  paper pays a token W r - P 1{step wrong} with W = 2, P = 1; that is the estimator's. Its steps are the paragraphs of one
  answer, here those of the tree before a segmenter cuts them. The words of the prompt are ours.

  Args:
    episode: any.
    judge: the paper's is Qwen2.5-72B; it should sample, otherwise all critiques are one.
    critiques: k.
    vote: 'intersection' | 'majority' | 'union'.
    answer: where the task's data has the right answer, which the judge is shown; None: it is not (about as good in the paper).
    prompt: with the fields {task} (the first observation), {answer} and {attempt}.

  Returns:
    A coroutine of {'process': one float a step}. A critique that does not come, cannot be read or names a step that does not
    exist is left out of the vote and of k (ours); without any there is no verdict on any step.

  Raises:
    ValueError: `vote` is none of these, `critiques` is below 1, the task has no answer.

  Source: a public reading note of the paper.

  Proof: guess: the prompt, and what becomes of critiques that cannot be read.
  """
  if vote not in VOTES:
    raise ValueError(f"vote is 'intersection', 'majority' or 'union', not {vote!r}.")
  if critiques < 1:
    raise ValueError(f'critiques must be at least 1, not {critiques}.')
  n, asked = len(episode.nodes), prompt.format(task=episode.nodes[0].obs, answer=_shown(episode, answer), attempt=attempt(episode))

  async def marks():
    said = await asyncio.gather(*(judge(asked, sample=k) for k in range(critiques)))
    lists = [found for text in said if (found := wrong(text, n)) is not None]
    if not lists:
      return {'process': [None] * n}
    return {'process': [-1. if VOTES[vote](sum(j in found for found in lists), len(lists)) else 0. for j in range(1, n + 1)]}
  return marks()


capo.grain = 'episode'


def wrong(text: str | None, steps: int) -> set[int] | None:
  """The numbers, from 1, in the last line that begins with 'Wrong steps:'; None where it cannot be read."""
  lines = re.findall(r'^[\s*]*wrong steps?\s*:(.*)$', text or '', re.IGNORECASE | re.MULTILINE)
  said = lines[-1].strip(' \t*.[]()').casefold() if lines else ''
  if said == 'none':
    return set()
  if not re.fullmatch(r'\d{1,6}(?:(?:\s*,\s*|\s+and\s+|\s+)\d{1,6})*', said):
    return None
  found = {int(k) for k in re.findall(r'\d+', said)}
  return found if found <= set(range(1, steps + 1)) else None


def _shown(episode, key):
  if key is None:
    return ''
  data = episode.task.data
  gold = data.get(key) if isinstance(data, Mapping) else getattr(data, key, None)
  if gold is None:
    raise ValueError(f"capo needs tasks whose data has '{key}', or answer=None; task {episode.task.id} has none.")
  return f'\nRight answer:\n{gold}\n'
