"""ArenaRL's seeded single elimination (Alibaba-NLP/qqr@8653a9ab `single_elimination.py`): bracket, ranks, rewards.

`bracket(n)` gives the slots, `await tournament(n, compare)` the ranks; compare(i, j) answers (score of i, score of j), here the same
from both sides.
"""

import asyncio
import random

import numpy as np
import pytest

from rlx import toy
from rlx.estimators.grpo import grpo
from rlx.rewards import arena as module
from rlx.types import Episode, Node, Task


def bracket_twin(n):
  slots = [0]
  while len(slots) < n:
    slots = [x for i in slots for x in (i, 2 * len(slots) - 1 - i)]
  return [i for i in slots if i < n]


def tournament_twin(n, score):
  """(ranks, the pairs that were compared); score[i, j] = (of i, of j) for i < j."""
  got, asked = [[] for _ in range(n)], set()

  def compare(i, j):
    asked.add(frozenset((i, j)))
    a, b = score[i, j] if i < j else score[j, i][::-1]
    got[i].append(a)
    got[j].append(b)
    return a, b
  mean = lambda i: sum(got[i]) / len(got[i])
  seed = {j: compare(0, j)[1] for j in range(1, n)}
  seed[0] = mean(0)
  order = sorted(range(n), key=lambda i: -seed[i])               # equal ones in their own order
  players, losers = [order[s] for s in bracket_twin(n)], []
  while len(players) > 1:
    winners, out = [], []
    for i, j in zip(players[::2], players[1::2]):
      a, b = compare(i, j)
      winners.append(i if a >= b else j)
      out.append(j if a >= b else i)
    losers.append(out)
    players = players[len(players) - len(players) % 2:] + winners   # who had nobody to play goes in front
  final = players + [i for out in losers[::-1] for i in sorted(out, key=lambda i: -mean(i))]
  return [final.index(i) for i in range(n)], asked


def play(n, score):
  asked = set()

  async def compare(i, j):
    await asyncio.sleep(0)
    asked.add(frozenset((i, j)))
    return score[i, j] if i < j else score[j, i][::-1]
  return [int(r) for r in asyncio.run(module.tournament(n, compare))], asked


def test_bracket():
  assert tuple(module.bracket(8)) == (0, 7, 3, 4, 1, 6, 2, 5)
  assert tuple(module.bracket(4)) == (0, 3, 1, 2) and tuple(module.bracket(3)) == (0, 1, 2) and tuple(module.bracket(1)) == (0,)
  for n in range(1, 20):
    assert list(module.bracket(n)) == bracket_twin(n)


def test_the_one_without_an_opponent_goes_in_front():
  # seeds 0 (mean 4), 1 (4, equal: own order), 2 (3); 0 beats 1, then plays behind 2, and a tie goes to the first listed
  assert play(3, {(0, 1): (5, 4), (0, 2): (3, 3), (1, 2): (0, 0)})[0] == [1, 2, 0]


def test_losers_of_a_round_by_the_mean_of_all_their_scores():
  # seeds 0 1 2 3; 0 beats 3, 1 beats 2, 0 beats 1; the losers of the first round: 2 has 6 and 3, 3 has 5 and 5
  score = {(0, 1): (9, 8), (0, 2): (9, 6), (0, 3): (9, 5), (1, 2): (9, 3), (1, 3): (0, 0), (2, 3): (0, 0)}
  assert play(4, score)[0] == [0, 1, 3, 2]


@pytest.mark.parametrize('n', range(2, 12))
def test_twin(n):
  for seed in range(8):
    rng = random.Random(100 * n + seed)
    score = {(i, j): (rng.randint(0, 4), rng.randint(0, 4)) for i in range(n) for j in range(i + 1, n)}
    ranks, asked = play(n, score)
    assert (ranks, asked) == tournament_twin(n, score) and sorted(ranks) == list(range(n))


def episodes(n):
  node = lambda i, text: Node(i - 1, '', [], i == 0, text, [], None, None, {})
  return [Episode(Task('t', dict(question='?')), [node(0, 'look'), node(1, f'answer {k}')], range(2)) for k in range(n)]


def paid(n, judge):
  verdicts = asyncio.run(module.arena(episodes(n), judge=judge))
  assert len(verdicts) == n and all(set(v) == {'task'} and not v['task'][0] for v in verdicts)
  return [v['task'][-1] for v in verdicts]


async def silent(prompt):
  assert isinstance(prompt, str)


def test_what_it_is():
  # 'vote' is for environments that pay 'task' themselves; 'judged', since a missing verdict is nothing unusual here
  assert module.arena.grain == 'group' and tuple(module.writes) == ('reward/task', 'judged/task', 'reward/vote', 'judged/vote')


def test_ranks_are_paid(monkeypatch):
  async def ranks(n, compare):
    return [2, 0, 3, 1, 4]
  monkeypatch.setattr(module, 'tournament', ranks)
  assert paid(5, silent) == [.5, 1., .25, .75, 0.]


def test_a_judge_without_an_answer_is_no_verdict():
  assert paid(3, silent) == [None] * 3


def test_an_episode_alone_is_not_judged():
  assert all(x is None or np.isfinite(x) for x in paid(1, silent))


def test_eight_ranks_through_grpo():
  # 1 - rank / 7: mean .5, sample deviation .349927
  want = [1.4289, 1.0206, .6124, .2041]
  got = grpo(toy.batch([-1] * 8, task=[1 - k / 7 for k in range(8)]))
  np.testing.assert_allclose(got, want + [-x for x in want[::-1]], atol=1e-4)
