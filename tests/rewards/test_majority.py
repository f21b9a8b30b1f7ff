"""Majority vote as a reward (TTRL, arXiv:2504.16084; PRIME-RL/TTRL@3e2cc937 `ttt_metrics.py`)."""

import collections
import random

import pytest

from rlx.rewards import majority as module
from rlx.types import Episode, Node, Task

majority = module.majority


def said(answer, before=1):
  """An episode that answers in its last step; None: it says something else."""
  texts = ['<answer>no</answer>'] * before + ['I do not know' if answer is None else f'so <answer>{answer}</answer>']
  nodes = [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  return Episode(Task('t'), nodes, range(len(texts)))


def paid(answers, **kw):
  """What each last step is paid; the steps before get nothing."""
  verdicts = majority([said(a, before=i % 3) for i, a in enumerate(answers)], **dict(answer='answer') | kw)
  assert all(set(v) == {'task'} and len(v['task']) == i % 3 + 1 for i, v in enumerate(verdicts))
  assert not any(x for v in verdicts for x in v['task'][:-1])
  return [v['task'][-1] for v in verdicts]


def test_what_it_is():
  # 'vote' is for environments that pay 'task' themselves; 'judged', since a missing verdict is nothing unusual here
  assert majority.grain == 'group' and tuple(module.writes) == ('reward/task', 'judged/task', 'reward/vote', 'judged/vote')


@pytest.mark.parametrize('answers, expected', [
    ('aab', [1, 1, 0]), ('baca', [0, 1, 0, 1]), ('a', [1]),
    ('abba', [1, 0, 0, 1]), ('cab', [1, 0, 0]),                     # a tie: the answer first seen
    ([None, 'a', 'a'], [0, 1, 1]),
    ([None, 'a', None], [1, 0, 1]),                                 # as released, having no answer is an answer too
    (['a', None, 'b', None, 'a'], [1, 0, 0, 0, 1])])
def test_by_hand(answers, expected):
  assert paid(answers) == expected


def test_all_vote_and_the_first_are_trained():
  assert paid('abbbac', train=2) == [0, 1, None, None, None, None]
  assert paid('ab', train=5) == [1, 0]


def test_a_regular_expression_reads_the_answer():
  episodes = [said(a) for a in (r'\boxed{4}', r'\boxed{5}', r'x \boxed{4}')]
  assert [v['task'][-1] for v in majority(episodes, answer=r'\\boxed\{(.*?)\}')] == [1, 0, 1]


def test_twin():
  for seed in range(20):
    rng = random.Random(seed)
    answers = [rng.choice(['1', '2', '3', None]) for _ in range(rng.randint(1, 9))]
    label = collections.Counter(answers).most_common(1)[0][0]       # the first seen of those with most votes
    train = rng.choice([None, 3])
    want = [float(a == label) if train is None or i < train else None for i, a in enumerate(answers)]
    assert paid(answers, train=train) == want
