"""EMPO's reward (QingyangZhang/EMPO@c5eccd40 `rewards.py`, `semantic_uncertainty.py`): the share of the cluster an answer is in."""

import numpy as np
import pytest

from rlx import toy
from rlx.estimators.grpo import grpo
from rlx.rewards import empo as module
from rlx.types import Episode, Node, Task

empo = module.empo


def said(answer):
  texts = ['look', f'<answer>{answer}</answer>']
  nodes = [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  return Episode(Task('t', dict(question='?')), nodes, range(2))


def paid(answers, **kw):
  verdicts = empo([said(a) for a in answers], **dict(answer='answer') | kw)
  assert all(set(v) == {'task'} and not v['task'][0] for v in verdicts)
  return [v['task'][-1] for v in verdicts]


def test_what_it_is():
  # 'vote' is for environments that pay 'task' themselves
  assert empo.grain == 'group' and tuple(module.writes) == ('reward/task', 'reward/vote')


def test_worked_example():
  # answers a a b '': shares .5 .5 .25 .25, an empty one is paid 0; mean .3125, deviation .239357
  assert paid(['a', 'a', 'b', '']) == [.5, .5, .25, 0.]
  got = grpo(toy.batch([-1] * 4, task=[.5, .5, .25, 0.]))
  np.testing.assert_allclose(got, [.7833, .7833, -.2611, -1.3056], atol=1e-4)


@pytest.mark.parametrize('n', range(1, 9))
def test_where_all_differ_nothing_is_paid(n):
  """The entropy of the clusters is then log n, whatever rounding says; a prompt with one answer too (0 >= log 1)."""
  assert paid('abcdefgh'[:n]) == [0.] * n
  if n > 1:
    assert paid(['x', *'abcdefgh'[:n - 1], 'x']) == [2 / (n + 1)] + [1 / (n + 1)] * (n - 1) + [2 / (n + 1)]


def test_nobody_answers():
  assert paid(['', '', '']) == [0.] * 3


def clusters_twin(answers, same):
  """Each head takes all later answers it is judged equal to, those of earlier heads too."""
  ids, heads = [None] * len(answers), 0
  for i, a in enumerate(answers):
    if ids[i] is None:
      ids[i] = heads
      for j in range(i + 1, len(answers)):
        if same(a, answers[j]):
          ids[j] = heads
      heads += 1
  return ids


near = lambda a, b: abs(float(a) - float(b)) <= 1      # not transitive


@pytest.mark.parametrize('answers', ['132', '12342', '5132462', '11'])
def test_an_answer_ends_in_the_last_cluster_that_takes_it(answers):
  got = list(module.clusters(list(answers), near))
  want = clusters_twin(answers, near)
  assert [[a == b for b in got] for a in got] == [[a == b for b in want] for a in want]


def test_by_hand_with_a_verifier_that_is_not_transitive():
  # heads 1 and 3: 2 is near both and ends with 3
  got = list(module.clusters(['1', '3', '2'], near))
  assert got[0] != got[1] == got[2]
  # shares 1/3 and 2/3
  np.testing.assert_allclose(paid(['1', '3', '2'], same=near), [1 / 3, 2 / 3, 2 / 3], rtol=1e-6)


def test_free_form():
  # an empty answer costs .5; nothing is paid where the largest share is below .2 and there are several clusters
  assert paid(['a', 'a', 'b', ''], form='free') == [.5, .5, .25, -.5]
  np.testing.assert_allclose(paid('abcde', form='free'), [.2] * 5, rtol=1e-6)
  assert paid('abcdef', form='free') == [0.] * 6
  with pytest.raises(ValueError):
    paid('ab', form='other')
