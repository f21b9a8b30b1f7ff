"""Pays a turn the share of a checklist that a judge finds fulfilled."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rlx.types import Episode

writes = ('reward/turn', 'judged/turn', 'reward/checklist', 'judged/checklist')

PROMPT = """The last turn of an agent is judged by one question.

What came before:
{history}

Last turn:
{turn}

Question: {question}

Answer from what stands above alone. End with one line that holds Yes or No and nothing else."""


def checklist(episode: Episode, *, judge: Callable[..., Awaitable[str | None]], items: Sequence[Mapping] | None = None,
              prompt: str = PROMPT, into: str = 'turn') -> Awaitable[dict[str, list]]:
  """The weighted share of a turn's checklist items that pass (CM2, arXiv:2602.12268).

    u_k = sum_i w_i 1{item i passes at turn k} / sum_i w_i   over the items of turn k;   0 where a turn has none

  Many small yes-or-no questions, one number a turn; the estimator compares equal turns. The paper's items also have
  pointers to evidence and a condition to pass, and depend on one another; none of that is used here. How weights are summed up
  is not known (ours), and neither are the words of its prompt.

  Args:
    episode: its task's data may have, as a field or key, `checklist`: a list of dict(question, weight=1., turn=None), `turn`
      counted from 0 along the episode; None: an item of every turn. Items of turns that never came are left out.
    judge: is asked once for each item and turn, all at the same time.
    items: the checklist of tasks that have none.
    prompt: with the fields {history}, {turn} and {question}.
    into: channel: 'turn', or 'checklist' where the environment pays 'turn' itself.

  Returns:
    A coroutine of {into: one float a step}; None on a turn of which an item has no answer, or one that is neither yes nor no.

  Raises:
    ValueError: there is no checklist, an item has no question or a weight that is not above 0, `into` is neither.

  Source: the items are those of namezhenzhang/CM2-RLCR-Tool-Agent@2758991a, whose release reads the judged rewards from files.

  Proof: guess: how the items of a turn are summed up, and the prompt.
  """
  if into not in ('turn', 'checklist'):
    raise ValueError(f"into is 'turn' or 'checklist', not {into!r}.")
  data = episode.task.data
  found = data.get('checklist') if isinstance(data, Mapping) else getattr(data, 'checklist', None)
  found = items if found is None else found
  if not found:
    raise ValueError(f'checklist needs tasks whose data has a `checklist`, or `items`; task {episode.task.id} has none.')
  for item in found:
    if 'question' not in item or not item.get('weight', 1.) > 0:
      raise ValueError(f'an item has a question, and a weight above 0 or none; it is {dict(item)!r}.')

  async def ask(k, item):
    history = ''.join(n.obs + n.text for n in episode.nodes[:k]) + episode.nodes[k].obs
    said = episode.nodes[k].text.strip()
    return passes(await judge(prompt.format(history=history.strip(), turn=said, question=item['question'])))

  async def pay(k):
    own = [item for item in found if item.get('turn') in (None, k)]
    verdicts = await asyncio.gather(*(ask(k, item) for item in own))
    if None in verdicts:
      return None
    weights = [float(item.get('weight', 1.)) for item in own]
    return sum(w for w, v in zip(weights, verdicts, strict=True) if v) / sum(weights) if own else 0.

  async def turns():
    return {into: list(await asyncio.gather(*map(pay, range(len(episode.nodes)))))}
  return turns()


checklist.grain = 'episode'


def passes(text: str | None) -> bool | None:
  """The last line that is a yes or a no, as a bool; None where there is none."""
  found = re.findall(r'^[ \t*]*(yes|no)[ \t*.]*$', text or '', re.IGNORECASE | re.MULTILINE)
  return found[-1].casefold() == 'yes' if found else None
