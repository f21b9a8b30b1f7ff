"""Pays an episode for a judge's verdict on it that was reached step by step: no right answer is needed."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence

from rlx.rewards._asking import attempt, verdict
from rlx.types import Episode

writes = ('reward/spark', 'judged/spark', 'reward/spark_steps', 'judged/spark_steps')

PROMPT = """A task and an attempt at it are given. Check the attempt step by step, each step by itself.

Task:
{task}

Attempt:
{attempt}

For each step reason first, then write one line that says 'Step 1: right' or 'Step 1: wrong', with its own number. When all \
are checked, end with one line that says 'Verdict: right' if the attempt as a whole solves the task, else 'Verdict: wrong'."""


def spark(episode: Episode, *, judge: Callable[..., Awaitable[str | None]], mode: str = 'process', weight: float = 0.5,
          samples: int = 1, least: int = 1, most: int | None = None, once: str | None = None,
          prompt: str = PROMPT) -> Awaitable[dict[str, list]]:
  """The reward of a process reward model that reasons about each step (SPARK, arXiv:2512.03244).

    process:    R = [format] v                      augmented:  R = [format] (weight v + (1 - weight) mean_j l_j)

  v: the final verdict, after all steps were checked; l_j: whether step j was found right. Of several verifications each
  label is that of the majority, step by step (equal numbers: wrong), as the paper makes the labels that its reward model
  learns from, with 16; in training it is asked once. [format] is 1 where none of the three ways to please such a judge was
  taken: another task and its answer appended (`once`), trivial steps in great number (`most`), a single step (`least`);
  by default nothing is asked for but one step.

  Both rewards are known by name only, their form is ours, and so are the format's rules and the words of the prompt. The two
  further designs (selective advantage, global step reward) and the meta-critique are not here. The judge must not be the
  policy: training against its own votes is said to collapse.

  Args:
    episode: any.
    judge: the paper's are models of 14 and 32 billion parameters.
    mode: 'process' or 'augmented'.
    weight: of the final verdict, in 'augmented'.
    samples: verifications; with several the judge should sample.
    least, most: steps an episode may have; None: any number.
    once: regular expression that must be found exactly once in all that was said, for instance that of the answer's tag;
      None: not asked.
    prompt: with the fields {task} (the first observation) and {attempt}.

  Returns:
    A coroutine of {'spark': R on the last step, 'spark_steps': l_j on each step}. A verification that misses a step or the
    verdict is left out; without any there is no verdict at all.

  Raises:
    ValueError: no such mode; `samples` is below 1.

  Proof: guess: the form of both rewards and of the format's rules.
  """
  if mode not in ('process', 'augmented'):
    raise ValueError(f"mode is 'process' or 'augmented', not {mode!r}.")
  if samples < 1:
    raise ValueError(f'samples must be at least 1, not {samples}.')
  n, asked = len(episode.nodes), prompt.format(task=episode.nodes[0].obs, attempt=attempt(episode))
  text = '\n'.join(node.text for node in episode.nodes)
  form = least <= n <= (n if most is None else most) and (once is None or len(re.findall(once, text, re.DOTALL)) == 1)

  async def verified():
    said = await asyncio.gather(*(judge(asked, sample=k) for k in range(samples)))
    found = [r for text in said if (r := checked(text, n)) is not None]
    if not found:
      return {'spark': [0.] * (n - 1) + [None], 'spark_steps': [None] * n}
    *steps, final = majority(found)
    paid = form * (final if mode == 'process' else weight * final + (1 - weight) * sum(steps) / n)
    return {'spark': [0.] * (n - 1) + [float(paid)], 'spark_steps': [float(l) for l in steps]}
  return verified()


spark.grain = 'episode'


def checked(text: str | None, steps: int) -> list[bool] | None:
  """Whether each step is right, in their order, and last whether all of it is; None where one of them is not said."""
  lines = re.findall(r'^\W*step\s*(\d{1,6})\W+(right|wrong)\W*$', text or '', re.IGNORECASE | re.MULTILINE)
  said, final = {int(j): v.casefold() == 'right' for j, v in lines}, verdict(text)
  return None if final is None or set(said) != set(range(1, steps + 1)) else [*(said[j] for j in range(1, steps + 1)), final]


def majority(votes: Sequence[Sequence[bool]]) -> list[bool]:
  """For each place whether more than half of the votes are for it."""
  return [2 * sum(place) > len(votes) for place in zip(*votes, strict=True)]
