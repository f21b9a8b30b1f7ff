"""Pays each step of an agent that splits a question and sends the parts to knowledge bases."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from rlx.types import Episode

writes = ('reward/turn',)


def routed(episode: Episode, *, kinds: Sequence[str] = ('text', 'image', 'table', 'none'),
           similarity: Callable[[str, str], float] | None = None, tags: Sequence[str] = ('sub-question', 'ret', 'answer'),
           short: int = 5) -> dict[str, list]:
  """Pays steps against gold steps (R1-Router, arXiv:2505.22095): the part asked, where it was sent, the answer at the end.

    retrieval step:  1/2 similarity(sub-question, gold) + 1/2 [one knowledge base named, and it is the gold one]
    answer step:     recall of the gold answer's words; where that has `short` words or fewer, or there are several: [recall is 1]

  A retrieval is `<sub-question> ... </sub-question> <ret> text, table </ret>`, its gold the entry of `steps` with the number
  of the step in the episode; an answer is `<answer> ... </answer>`. Paid 0: both or neither in one action, a knowledge base
  not in `kinds`, 'none' beside another, a retrieval after the last gold step. Of a block that comes twice the first counts, case
  does not. The release also asks for a <think> block, and compares words after rules of its own for numbers and contractions.

  Args:
    episode: its task's data has, as fields or keys, `steps`: a list of dict(question, source), and `answer`: a text, or a list
      of which one is enough.
    kinds: names of knowledge bases; 'none' means that nothing is looked up.
    similarity: (said, gold) -> number; the paper has the cosine of BGE-M3. None: F1 of their words (ours).
    tags: of the sub-question, of the knowledge bases, of the answer.
    short: words.

  Returns:
    {'turn': one float a step}.

  Raises:
    ValueError: the task has no steps or no answer.

  Source: OpenBMB/R1-Router@c0a0c1ba `Easy-R1/verl/utils/reward_score/step.py`: `ret_accuracy_reward`,
  `ans_accuracy_reward`, `step_compute_score`.

  Proof: twin; guess: which gold step a step of a whole episode is held against, and the similarity without a model.
  """
  data = episode.task.data
  steps, answer = (data.get(k) if isinstance(data, Mapping) else getattr(data, k, None) for k in ('steps', 'answer'))
  if steps is None or answer is None:
    raise ValueError(f'routed needs tasks whose data has `steps` and `answer`; task {episode.task.id} has not both')
  golds = [answer] if isinstance(answer, str) else list(answer)
  alike = similarity or f1

  def pay(j, text):
    asked, sent, said = (re.search(f'<{re.escape(t)}>(.*?)</{re.escape(t)}>', text, re.DOTALL | re.IGNORECASE) for t in tags)
    if said and not sent:
      share = max(recall(said[1], g) for g in golds)
      whole = len(golds) > 1 or len(golds[0].split()) <= short
      return float(share == 1) if whole else share
    if said or not (asked and sent) or j >= len(steps):
      return 0.
    named = [k.strip().casefold() for k in sent[1].split(',')]
    if not set(named) <= {k.casefold() for k in kinds} or ('none' in named and len(named) > 1):
      return 0.
    right = named == [steps[j]['source'].casefold()]
    return .5 * float(alike(asked[1].strip(), steps[j]['question'])) + .5 * right

  return {'turn': [pay(j, node.text) for j, node in enumerate(episode.nodes)]}


routed.grain = 'episode'


def words(text: str) -> Counter:
  """Its words without case and punctuation, counted."""
  return Counter(re.findall(r'\w+', text.casefold()))


def recall(said: str, gold: str) -> float:
  """Share of the gold words that were said; 0 where there is none."""
  a, b = words(said), words(gold)
  return (a & b).total() / max(b.total(), 1)


def f1(said: str, gold: str) -> float:
  """2 * words in common / words of both; 0 where there is none."""
  a, b = words(said), words(gold)
  return 2 * (a & b).total() / max(a.total() + b.total(), 1)
