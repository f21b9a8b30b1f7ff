"""Voted verdicts on single steps: what the judge is shown, how its answers are read and counted."""

import asyncio

import pytest

from rlx.judges.scripted import scripted
from rlx.rewards import gen_prm as module
from rlx.rewards._asking import attempt, verdict
from rlx.rewards.gen_prm import gen_prm
from rlx.types import Episode, Node, Task


def episode(*texts, obs=()):
  obs = [*obs, *[''] * len(texts)]
  nodes = [Node(i - 1, obs[i], [], i == 0, t, [], None, None, {}) for i, t in enumerate(texts)]
  return Episode(Task('t'), nodes, range(len(texts)))


def says(*answers):
  """A judge whose k-th sample is answers[k], and what it was asked."""
  asked = []
  async def judge(prompt, *, sample=0):
    asked.append(prompt)
    await asyncio.sleep(0)
    return answers[sample % len(answers)]
  return judge, asked


def paid(e, judge, **kw):
  got = asyncio.run(gen_prm(e, judge=judge, **kw))
  assert set(got) == {'gen_prm'} and len(got['gen_prm']) == len(e.nodes)
  return got['gen_prm']


RIGHT, WRONG = 'It adds up.\nVerdict: right', 'No.\n**Verdict: wrong**'


def test_share_and_vote():
  judge, asked = says(RIGHT, RIGHT, WRONG, RIGHT)
  assert paid(episode('a', 'b'), judge) == [.75, .75] and len(asked) == 8
  assert paid(episode('a'), judge, pay='vote') == [1.] and paid(episode('a'), judge, samples=3) == [2 / 3]
  assert paid(episode('a'), says(RIGHT, WRONG)[0], pay='vote') == [0.], 'equal numbers are no majority'


def test_the_judge_sees_the_steps_up_to_the_one_it_judges():
  judge, asked = says(RIGHT)
  paid(episode('one', 'two', 'three', obs=('the task', 'saw x', 'saw y')), judge, samples=1)
  first, second, third = asked
  assert 'the task' in first and '(none)' in first and 'The step to judge:\none\n' in first and 'two' not in first
  assert 'Step 1: one\nObserved: saw x\n' in second and 'The step to judge:\ntwo\n' in second and 'saw y' not in second
  assert 'Step 1: one\nObserved: saw x\nStep 2: two\nObserved: saw y\n' in third


def test_attempt():
  e = episode('one', 'two', obs=('the task', 'saw x'))
  assert attempt(e) == 'Step 1: one\nObserved: saw x\nStep 2: two'
  assert attempt(e, 0) == '' and attempt(e, 1) == 'Step 1: one\nObserved: saw x'


def test_a_judge_that_says_nothing_or_nonsense():
  assert paid(episode('a', 'b'), scripted()) == [None, None]
  assert paid(episode('a'), scripted(otherwise='right, I think')) == [None]
  assert paid(episode('a'), says(None, RIGHT, 'right?', WRONG)[0]) == [.5], 'what cannot be read does not count'
  judge = scripted(rules={'judge:\nb': RIGHT, 'judge:\nc': WRONG})
  assert paid(episode('a', 'b', 'c'), judge) == [None, 1., 0.]


@pytest.mark.parametrize('text, said', [
    (None, None), ('', None), ('right', None), ('Verdict: right', True), ('verdict - WRONG.', False),
    ('Verdict: right\nVerdict: wrong', False),
    ('Verdict: right or wrong', None), ('My verdict: right', None), ('Verdict: right\nbye', True), ('Verdict: wrongly', None)])
def test_verdict(text, said):
  assert verdict(text) is said


def test_what_it_says():
  assert gen_prm.grain == 'episode' and module.writes == ('reward/gen_prm', 'judged/gen_prm')
  with pytest.raises(ValueError, match="pay is 'share' or 'vote', not 'sum'"):
    paid(episode('a'), scripted(), pay='sum')
  with pytest.raises(ValueError, match='samples must be at least 1, not 0'):
    paid(episode('a'), scripted(), samples=0)
