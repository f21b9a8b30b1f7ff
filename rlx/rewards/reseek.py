"""Pays a search agent for judging what it found."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rlx.types import Episode

writes = ('reward/judge',)


def reseek(episode: Episode, *, tag: str = 'judge', words: Sequence[str] = ('Yes', 'No'), search: str | None = 'search',
           answer: str = 'answer', similarity: Callable[[str, str], float] | None = None, threshold: float = .7,
           match: float = .3, yes: float = -.6, no: float = -.3, missing: float = 0., gamma: float = 1.,
           outcome: str | None = 'task') -> dict[str, list]:
  """Pays each verdict of the agent on what its search brought, and the outcome (ReSeek, arXiv:2510.00568).

    right_t = similarity(observation_t, answer) > threshold
    r_t = match if the verdict is right, `yes` if it is Yes and should not be, `no` if it is No and should not be
    R = sum_t gamma^{t-1} r_t,   whose last term is the outcome

  A step that follows a search owes a verdict on its observation, `<judge>Yes</judge>`; of several the first counts, case does
  not. The terms t are the verdicts owed, in their order, and then the outcome. GRPO on this channel is the paper's.
  That its prompt forbids an answer after a No is for the context to say; nothing here does.

  Args:
    episode: its task's data has the answer.
    tag: of the verdict.
    words: for yes, for no.
    search: tag of a search; None: every step owes a verdict, the first too.
    answer: where the task's data has the right answer: a text, or a list of which one is enough.
    similarity: (observation, answer) -> number; the paper has bge-reranker-large. None: share of the answer's words that are
      observed (ours).
    threshold: the similarity from which on a result is useful.
    match, yes, no: what verdicts earn.
    missing: what a step earns that owes a verdict and gives none (ours).
    gamma: the paper's value is not known; its example has 1.
    outcome: channel of the outcome (exact match, 0 or 1), already paid; None: verdicts alone.

  Returns:
    {'judge': one float a step}; None on a step whose outcome has no verdict.

  Raises:
    ValueError: the task has no answer.

  Source: a public reading note of the paper.

  Proof: guess: the similarity without a reranker, gamma, and a verdict that is not given.
  """
  data = episode.task.data
  golds = data.get(answer) if isinstance(data, Mapping) else getattr(data, answer, None)
  golds = [] if golds is None else [str(g) for g in (golds if isinstance(golds, list | tuple) else [golds])]
  if not golds:
    raise ValueError(f"reseek needs tasks whose data has '{answer}'; task {episode.task.id} has none.")
  alike, (good, bad) = similarity or recall, (w.casefold() for w in words)
  paid, factor = [], 1.
  for i, node in enumerate(episode.nodes):
    amount = 0.
    if search is None or i and _block(search, episode.nodes[i - 1].text) is not None:
      said = (_block(tag, node.text) or '').strip().casefold()
      useful = max(alike(node.obs, g) for g in golds) > threshold
      earned = missing if said not in (good, bad) else match if useful == (said == good) else yes if said == good else no
      amount, factor = factor * earned, factor * gamma
    end = 0. if outcome is None else node.reward.get(outcome, 0.)
    paid.append(None if end is None else amount + factor * end)
  return {'judge': paid}


reseek.grain = 'episode'


def recall(said: str, gold: str) -> float:
  """Share of the gold words that were said; 0 where there is none."""
  a, b = (Counter(re.findall(r'\w+', text.casefold())) for text in (said, gold))
  return (a & b).total() / max(b.total(), 1)


def _block(tag, text):
  found = re.search(f'<{re.escape(tag)}>(.*?)</{re.escape(tag)}>', text, re.DOTALL)
  return found and found[1]
