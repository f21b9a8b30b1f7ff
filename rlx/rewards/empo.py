"""Pays answers by how many rollouts of the prompt mean the same: no right answer is needed."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from rlx.rewards.exact import normal
from rlx.rewards.majority import answers, on_last
from rlx.types import Episode

writes = ('reward/task', 'reward/vote')


def empo(episodes: Sequence[Episode], *, answer: str | None = None, of: str = 'last', same: Callable[[str, str], bool] | None = None,
         form: str = 'math', low: float | None = None, high: float | None = None, question: Callable[[Episode], str] | None = None,
         into: str = 'task') -> list[dict]:
  """Pays an answer the share of the prompt's episodes that mean the same (EMPO, arXiv:2504.05812).

    r_i = |cluster of i| / G,   0 without an answer and for a whole prompt whose clusters are as many as its episodes

  Its mean grows as the entropy of the clusters falls. An answer that opens a cluster takes all later ones that mean the same, even from
  an earlier cluster, as released: where `same` is not transitive, an answer ends in the last cluster that takes it. Episodes without an
  answer are one cluster, and count in G.

  Args:
    episodes: those of one prompt.
    answer, of: how the answer is read, as in `majority`.
    same: whether two answers mean the same (a rule for mathematics, a model elsewhere); None: equal texts.
    form: 'math', or 'free' for answers in words: -0.5 without an answer, 0 for one that repeats the question, and 0 for the prompt
      where no cluster has a share of 0.2.
    low, high: prompts whose entropy, in nats, is not above `low` or not below `high` get 0 (the paper's thresholds; None: not).
    question: with 'free', what an answer must not repeat; None: the first observation.
    into: channel: 'task', or 'vote' where the environment pays 'task' itself.

  Returns:
    {into: one float a step} for each episode, on its last step.

  Raises:
    ValueError: `of`, `form` or `into` is none of these.

  Source: QingyangZhang/EMPO@c5eccd40 `trl/src/open_r1/rewards.py::get_empo_math_reward`, `::get_empo_common_reward`.

  Proof: twin; guess: the thresholds; of 'free', which words are compared with the question's.
  """
  if form not in ('math', 'free'):
    raise ValueError(f"form is 'math' or 'free', not {form!r}.")
  said = [a or '' for a in answers(episodes, answer=answer, of=of)]
  ids = clusters(said, same or (lambda a, b: a == b))
  size, total = Counter(ids), len(said)
  entropy = -sum(k / total * math.log(k / total) for k in size.values())
  paid = [size[c] / total for c in ids]
  if form == 'math':
    flat, paid = len(size) == total, [p if a else 0. for p, a in zip(paid, said, strict=True)]
  else:
    flat, asked = len(size) > 1 and max(size.values()) < .2 * total, question or (lambda e: e.nodes[0].obs)
    paid = [-.5 if not a else 0. if _repeats(a, normal(asked(e))) else p for p, a, e in zip(paid, said, episodes, strict=True)]
  if flat or low is not None and entropy <= low or high is not None and entropy >= high:
    paid = [0.] * total
  return on_last(episodes, paid, into)


empo.grain = 'group'


def clusters(said: Sequence[str], same: Callable[[str, str], bool]) -> list[int]:
  """The cluster of each answer: one that is in none opens one, and takes every later answer that is the same."""
  ids: list[int | None] = [None] * len(said)
  for i, a in enumerate(said):
    if ids[i] is None:
      ids[i] = i
      for j in range(i + 1, len(said)):
        if same(a, said[j]):
          ids[j] = i
  return ids


def _repeats(answer, question):
  """Whether more than 0.8 of an answer's words stand in the question in their order, or the answer as a whole does."""
  words, asked = answer.split(), question.split()
  row = [0] * (len(asked) + 1)
  for word in words:      # the longest common subsequence
    new = [0]
    for j, other in enumerate(asked):
      new.append(row[j] + 1 if word == other else max(row[j + 1], new[j]))
    row = new
  return answer in question or row[-1] > .8 * len(words)
