"""Pays each step the share of a judge's verdicts that find it right: a generative process reward model."""

import asyncio
from collections.abc import Awaitable, Callable

from rlx.rewards._asking import attempt, verdict
from rlx.types import Episode

writes = ('reward/gen_prm', 'judged/gen_prm')

PROMPT = """A task, the steps taken so far and one more step are given. Is that step right and a step forward?

Task:
{task}

Steps so far:
{before}

The step to judge:
{step}

Reason first, then end with one line that says 'Verdict: right' or 'Verdict: wrong'."""


def gen_prm(episode: Episode, *, judge: Callable[..., Awaitable[str | None]], samples: int = 4, pay: str = 'share',
            prompt: str = PROMPT) -> Awaitable[dict[str, list]]:
  """Verdicts that a judge writes out, several a step, voted.

    share:  x_j = right_j / k_j          vote:  x_j = 1 if right_j > k_j / 2, else 0

  k_j: verdicts on step j that could be read, right_j: those that find it right. The judge sees the task and the steps up to
  j, not what came of it, so a step's score is the same wherever the episode ends. This is the part of a generative process
  reward model that methods such as StepORLM and SPARK (arXiv:2512.03244) have in common. The majority vote is SPARK's;
  StepORLM's judge reads the whole trajectory and then labels every step. The words of the prompt, that a step is asked about
  without what follows it, and the share are ours.

  Args:
    episode: any.
    judge: it should sample, otherwise all verdicts are one.
    samples: verdicts a step.
    pay: 'share' or 'vote'; equal numbers are no majority.
    prompt: with the fields {task} (the first observation), {before} and {step}.

  Returns:
    A coroutine of {'gen_prm': one float a step}; None where no verdict on it came or could be read.

  Raises:
    ValueError: no such `pay`; `samples` is below 1.

  Proof: guess: everything but the vote.
  """
  if pay not in ('share', 'vote'):
    raise ValueError(f"pay is 'share' or 'vote', not {pay!r}.")
  if samples < 1:
    raise ValueError(f'samples must be at least 1, not {samples}.')

  async def one(j):
    nodes = episode.nodes
    asked = prompt.format(task=nodes[0].obs, before=attempt(episode, j) or '(none)', step=nodes[j].text.strip())
    texts = await asyncio.gather(*(judge(asked, sample=k) for k in range(samples)))
    said = [v for text in texts if (v := verdict(text)) is not None]
    return None if not said else sum(said) / len(said) if pay == 'share' else float(2 * sum(said) > len(said))

  async def steps():
    return {'gen_prm': list(await asyncio.gather(*map(one, range(len(episode.nodes)))))}
  return steps()


gen_prm.grain = 'episode'
