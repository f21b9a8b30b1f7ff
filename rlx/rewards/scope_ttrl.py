"""Pays answers that agree with a vote weighed by confidence, in subgroups as small as the votes allow."""

import math
import random
import zlib
from collections.abc import Sequence

import numpy as np

from rlx.rewards.majority import answers, on_last
from rlx.types import Episode, Node

writes = ('reward/task', 'reward/vote')


def scope_ttrl(episodes: Sequence[Episode], *, answer: str | None = None, of: str = 'last', confidence: str = 'entropy',
               breaks: Sequence[int] = (), votes: int = 32, sizes: Sequence[int] | None = None, weight: float = 0.7, salt: int = 0,
               into: str = 'task') -> list[dict]:
  """Pays agreement with the label of one's own subgroup (SCOPE, "Beyond Majority Voting", arXiv:2512.15146).

    label = argmax_a sum of c_i over `votes` episodes drawn without replacement whose answer is a,   c_i: mean over steps of the mean confidence
    each subgroup of s consecutive episodes has a label of its own draw,   reward_i = 1{answer_i = the label of i's subgroup}
    s minimises sqrt(weight (1 - rho)^2 + (1 - weight) (1 - delta)^2) over the sizes that no other beats in both
    rho: mean reward at that size, delta: number of distinct labels, each scaled to [0, 1] over these sizes

  Labels are drawn anew with the size that was chosen. The release chooses one size for all prompts of a step, here each prompt has its own; it
  also drops empty answers before it pairs answers with confidences, which then belong to others: here such episodes do not vote and are paid 0.
  The draw is a function of what was said and of `salt`.

  Args:
    episodes: those of one prompt.
    answer, of: how the answer is read, as in `majority`.
    confidence: of a token: 'entropy': exp(-H); 'logp': its probability; or a stream of the sampler's. The release takes minus the mean of the
      log-probabilities of the likeliest tokens, which our sampler does not keep.
    breaks: ids of tokens that end a step inside an action (those with a blank line, in the release); steps end with actions anyway.
    votes: episodes that vote for a label; all where there are fewer.
    sizes: subgroup sizes to choose from; None: all powers of two that divide the number of episodes.
    weight: lambda.
    salt: another one is another draw.
    into: channel: 'task', or 'vote' where the environment pays 'task' itself.

  Returns:
    {into: one float a step} for each episode, on its last step.

  Raises:
    ValueError: a size that does not divide the number of episodes; `of` or `into` is none of these.

  Source: szu-tera/SCOPE@0c45ca79 `verl/trainer/ppo/grouputils.py`, `myutils.py`.

  Proof: twin; guess: what stands in for the confidence.
  """
  said, n = answers(episodes, answer=answer, of=of), len(episodes)
  sizes = [2**k for k in range(n.bit_length()) if n % 2**k == 0] if sizes is None else list(sizes)
  if wrong := [s for s in sizes if s < 1 or n % s]:
    raise ValueError(f'subgroups of {wrong[0]} do not divide {n} episodes.')
  sure = [float(np.mean([np.mean(c) for node in e.nodes for c in _steps(node, confidence, breaks)] or [0.])) for e in episodes]
  rng = random.Random(zlib.crc32(repr((salt, episodes[0].task.id, [e.text for e in episodes])).encode()))

  def label():
    voters = sorted(rng.sample(range(n), min(votes, n)))
    return vote([said[i] for i in voters], [sure[i] for i in voters])

  def draw(size):
    labels = [label() for _ in range(n // size)]
    paid = [float(a is not None and a == labels[i // size]) for i, a in enumerate(said)]
    return paid, sum(paid) / n, len(set(labels))
  _, rho, delta = zip(*map(draw, sizes), strict=True)
  return on_last(episodes, draw(sizes[choose(rho, delta, weight)])[0], into)


scope_ttrl.grain = 'group'


def vote(said: Sequence[str | None], sure: Sequence[float]) -> str | None:
  """The answer with the largest sum of confidences; None where there is none. A tie goes to the one that came first."""
  score: dict[str, float] = {}
  for answer, confidence in zip(said, sure, strict=True):
    if answer is not None:
      score[answer] = score.get(answer, 0.) + confidence
  return max(score, key=score.__getitem__) if score else None


def choose(rho: Sequence[float], delta: Sequence[float], weight: float) -> int:
  """Which size is nearest to the best of both, of those that no other beats; the first of equal ones."""
  found = list(zip(rho, delta, strict=True))
  beats = lambda a, b: a[0] >= b[0] and a[1] >= b[1] and a != b
  front = [i for i, b in enumerate(found) if not any(beats(a, b) for a in found)]

  def short(x):
    x = [x[i] for i in front]
    return [1 - (v - min(x)) / (max(x) - min(x) + 1e-8) for v in x]
  far = [math.sqrt(weight * r**2 + (1 - weight) * d**2) for r, d in zip(short(rho), short(delta), strict=True)]
  return front[far.index(min(far))]


def _steps(node: Node, kind: str, breaks: Sequence[int]):
  """The confidences of an action's sampled tokens, in pieces that end with one of `breaks`."""
  if kind == 'logp':
    sure = np.exp(node.logp)
  else:
    sure = np.exp(-node.stream['entropy']) if kind == 'entropy' else node.stream[kind]
  edges = [i + 1 for i, token in enumerate(node.ids) if token in breaks]
  pieces = zip(np.split(sure, edges), np.split(node.sampled, edges), strict=True)
  return [c[s] for c, s in pieces if s.any()]
