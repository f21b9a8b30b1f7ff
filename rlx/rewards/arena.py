"""Ranks a prompt's episodes by a tournament in which a judge compares two at a time."""

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Sequence

from rlx.rewards.majority import on_last
from rlx.types import Episode

writes = ('reward/task', 'judged/task', 'reward/vote', 'judged/vote')

PROMPT = """Two answers to the same task are compared.

Task:
{task}

First answer:
{first}

Second answer:
{second}

Give each a score from 0 to 10. End with one line that holds the two scores and nothing else, that of the first answer first, for example: 7 4"""
SCORES = r'^[ \t]*(-?\d+(?:\.\d+)?)[ \t,;:]+(-?\d+(?:\.\d+)?)[ \t]*$'


def arena(episodes: Sequence[Episode], *, judge: Callable[[str], str | None | Awaitable[str | None]], prompt: str = PROMPT,
          scores: str = SCORES, into: str = 'task') -> Awaitable[list[dict]]:
  """Pays ranks of a seeded single elimination (ArenaRL, arXiv:2601.06487).

    reward_i = 1 - rank_i / (N - 1),   rank 0 for the champion

  1. All meet episode 0; their scores there are their seeds, that of episode 0 is the mean of its own.
  2. The bracket is that of the next power of two (for eight 0 7 3 4 1 6 2 5), seeds that do not exist left out.
  3. Neighbours meet, the higher score goes on, at a tie the one that stands first. Where the number is odd the last one has no match and
     stands first in the next round.
  4. Those who lost later rank higher; of one round, those with the higher mean of all their scores.

  A pair is judged in both orders and each one's scores are added, so its place in the prompt does not matter. Matches of a round are asked
  at the same time. GRPO makes the ranks a fixed vector for each N.

  Args:
    episodes: those of one prompt.
    judge: `(text) -> answer`, a coroutine or a plain function, for instance around a language model; None: no answer.
    prompt: with the fields {task} (the first observation), {first} and {second} (all that follows it in an episode).
    scores: regular expression with a group for each score (`^` and `$` match at lines); its last match in the judge's answer counts.
    into: channel: 'task', or 'vote' where the environment pays 'task' itself.

  Returns:
    A coroutine of {into: one float a step} for each episode, on its last step; no verdict for any of them where the judge, a single
    time, gave no answer or no scores. The only episode of a prompt gets 1, and nobody is asked.

  Raises:
    ValueError: `into` is neither.

  Source: Alibaba-NLP/qqr@8653a9ab `qqr/reward_models/arena/single_elimination.py`.

  Proof: twin.
  """
  on_last((), (), into)
  return _ranked(episodes, judge, prompt, re.compile(scores, re.MULTILINE), into)


arena.grain = 'group'


async def _ranked(episodes, judge, prompt, scores, into):
  said = [''.join([e.nodes[0].text, *(n.obs + n.text for n in e.nodes[1:])]) for e in episodes]

  async def ask(i, j):
    answer = judge(prompt.format(task=episodes[0].nodes[0].obs, first=said[i], second=said[j]))
    answer = await answer if inspect.isawaitable(answer) else answer
    found = scores.findall(answer or '')
    return tuple(map(float, found[-1])) if found else None

  async def compare(i, j):
    one, other = await asyncio.gather(ask(i, j), ask(j, i))
    return None if one is None or other is None else (one[0] + other[1], one[1] + other[0])

  n = len(episodes)
  ranks = await tournament(n, compare)
  return on_last(episodes, [None] * n if ranks is None else [1 - r / max(n - 1, 1) for r in ranks], into)


async def tournament(n: int, compare: Callable[[int, int], Awaitable[tuple[float, float] | None]]) -> list[int] | None:
  """The rank of each of n players, from 0; `compare(i, j)` gives the scores of i and j. None where it gives None a single time."""
  every: list[list[float]] = [[] for _ in range(n)]
  mean = lambda i: sum(every[i]) / max(len(every[i]), 1)
  alive, out, seeded = list(range(n)), [], False
  while len(alive) > 1:
    pairs = list(zip(alive[::2], alive[1::2], strict=False)) if seeded else [(0, i) for i in range(1, n)]
    results = await asyncio.gather(*(compare(i, j) for i, j in pairs))
    if None in results:
      return None
    for pair, result in zip(pairs, results, strict=True):
      for player, score in zip(pair, result, strict=True):
        every[player].append(score)
    if seeded:
      lost = [int(a >= b) for a, b in results]
      out.append([pair[k] for pair, k in zip(pairs, lost, strict=True)])
      alive = alive[2 * len(pairs):] + [pair[1 - k] for pair, k in zip(pairs, lost, strict=True)]
    else:      # a stable sort: equal seeds keep their order
      ranked, seeded = sorted(alive, key=mean, reverse=True), True
      alive = [ranked[k] for k in bracket(n)]
  order = alive + [i for losers in reversed(out) for i in sorted(losers, key=mean, reverse=True)]
  return [order.index(i) for i in range(n)]


def bracket(n: int) -> list[int]:
  """Seeds in the order of their matches: the best meet late."""
  order = [0]
  while len(order) < n:
    order = [k for i in order for k in (i, 2 * len(order) - 1 - i)]
  return [k for k in order if k < n]
