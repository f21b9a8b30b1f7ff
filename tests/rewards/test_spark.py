"""SPARK's rewards (arXiv:2512.03244): the vote step by step, both forms, the three ways to please a judge."""

import asyncio

import pytest

from rlx.judges.scripted import scripted
from rlx.rewards import spark as module
from rlx.rewards.spark import checked, majority, spark
from rlx.types import Episode, Node, Task


def episode(*texts):
  nodes = [Node(i - 1, 'task' * (not i), [], i == 0, t, [], None, None, {}) for i, t in enumerate(texts)]
  return Episode(Task('t'), nodes, range(len(texts)))


def review(steps, final):
  """A verification as the judge is asked to write it."""
  word = {'1': 'right', '0': 'wrong'}
  lines = [f'Looks at it.\nStep {j}: {word[s]}' for j, s in enumerate(steps, 1)]
  return '\n'.join([*lines, f'Verdict: {word[final]}'])


def paid(texts, judge, **kw):
  got = asyncio.run(spark(episode(*texts), judge=judge, **kw))
  assert set(got) == {'spark', 'spark_steps'} and got['spark'][:-1] == [0.] * (len(texts) - 1)
  return got['spark'][-1], got['spark_steps']


def says(*answers):
  async def judge(prompt, *, sample=0):
    return answers[sample]
  return judge


def test_vote_of_the_sheet():
  votes = [[True, True, True, False], [True, True, False, False], [True, True, True, False]]
  labels = majority(votes)
  assert labels == [True, True, True, False] and labels.index(False) == 3
  assert majority([[True], [False]]) == [False], 'equal numbers: wrong'


def test_three_verifications():
  judge = says(review('1110', '0'), review('1100', '1'), review('1110', '1'))
  assert paid('abcd', judge, samples=3) == (1., [1., 1., 1., 0.])
  assert paid('abcd', judge, samples=3, mode='augmented') == (.5 + .5 * .75, [1., 1., 1., 0.])
  assert paid('abcd', judge, samples=1) == (0., [1., 1., 1., 0.])
  assert paid('abcd', judge, samples=1, mode='augmented', weight=.25) == (.75 * .75, [1., 1., 1., 0.])


@pytest.mark.parametrize('mode', ['process', 'augmented'])
def test_format(mode):
  """Steps inflated, steps reduced to one, a second answer appended: nothing is paid, the steps keep their labels."""
  right = scripted(rules={'Step 3': review('111', '1'), 'Step 2': review('11', '1'), '': review('1', '1')})
  three = ['look', 'think', '<answer>4</answer>']
  assert paid(three, right, mode=mode, most=3, least=2, once='<answer>')[0] == 1.
  assert paid(three, right, mode=mode, most=2) == (0., [1., 1., 1.])
  assert paid(['<answer>4</answer>'], right, mode=mode, least=2) == (0., [1.])
  two = ['think', '<answer>4</answer> What is 1 + 1? <answer>2</answer>']
  assert paid(two, right, mode=mode, once='<answer>.*?</answer>') == (0., [1., 1.])
  assert paid(['think', 'four'], right, mode=mode, once='<answer>')[0] == 0.


def test_a_judge_that_says_nothing_or_nonsense():
  assert paid('ab', scripted()) == (None, [None, None])
  assert paid('ab', scripted(otherwise='Verdict: right')) == (None, [None, None])
  judge = says(None, review('11', '1'), 'Step 1: right\nVerdict: wrong')
  assert paid('ab', judge, samples=3) == (1., [1., 1.]), 'a verification that misses a step is left out'


@pytest.mark.parametrize('text, steps, said', [
    (review('10', '1'), 2, [True, False, True]), (review('10', '1'), 3, None), (review('10', '1'), 1, None), (None, 1, None),
    ('Step 1: right\nStep 1: wrong\nVerdict: wrong', 1, [False, False]), ('- **Step 1**: Right.\n> verdict: RIGHT', 1, [True, True]),
    ('Step 1: right angle\nVerdict: right', 1, None), ('Step 1: right', 1, None)])
def test_checked(text, steps, said):
  assert checked(text, steps) == said


def test_what_it_says():
  assert spark.grain == 'episode'
  assert module.writes == ('reward/spark', 'judged/spark', 'reward/spark_steps', 'judged/spark_steps')
  with pytest.raises(ValueError, match="mode is 'process' or 'augmented', not 'global'"):
    paid('a', scripted(), mode='global')
  with pytest.raises(ValueError, match='samples must be at least 1'):
    paid('a', scripted(), samples=0)
