"""Pays a final answer that is the right one, letter for letter but for what nobody means."""

import re
from collections.abc import Mapping

from rlx.types import Episode

writes = ('reward/task',)


def exact(episode: Episode, *, tag: str | None = None, right: float = 1., wrong: float = 0.) -> dict[str, list]:
  """Pays the last action on its step if it equals the task's answer after normalisation.

  Normalised: case folded, each run of spaces one space, no quotes around it, none of `.,;:!?` at the end. Chat tokens
  `<|...|>` are left out. An answer of which nothing is left, such as '?', is compared as it stands.

  Args:
    episode: its task's data has an `answer`, as a field or a key.
    tag: only the text of the last <tag>...</tag> counts; an action without one is wrong. None: the whole text.
    right: reward of the right answer.
    wrong: reward of another.

  Returns:
    {'task': one float a step}.

  Raises:
    ValueError: the task has no answer.

  Proof: twin.
  """
  data = episode.task.data
  gold = data.get('answer') if isinstance(data, Mapping) else getattr(data, 'answer', None)
  if gold is None:
    raise ValueError(f'exact needs tasks whose data has an `answer`; task {episode.task.id} has none')
  said = re.sub(r'<\|[^|<>]*\|>', '', episode.nodes[-1].text)
  if tag is not None:
    said = (re.findall(f'<{re.escape(tag)}>(.*?)</{re.escape(tag)}>', said, re.DOTALL) or [None])[-1]
  gold = str(gold)
  hit = said is not None and (normal(said) == normal(gold) if normal(gold) else said.strip() == gold.strip())
  return {'task': [0.] * (len(episode.nodes) - 1) + [right if hit else wrong]}


exact.grain = 'episode'


def normal(text: str) -> str:
  """The text as it is compared."""
  return ' '.join(text.casefold().split()).strip('"\' ').rstrip('.,;:!?"\' ')
