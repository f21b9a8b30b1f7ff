"""Rewards that compare a prompt's episodes: numbers by hand."""

import asyncio
import re

import numpy as np
import pytest

from rlx.rewards.arena import arena, bracket, tournament
from rlx.rewards.empo import clusters, empo
from rlx.rewards.majority import answers, majority
from rlx.rewards.scope_ttrl import choose, scope_ttrl, vote
from rlx.types import Episode, Node, Task


def episode(*texts, entropy=(.1, .1)):
  """An episode whose actions have two tokens."""
  node = lambda i, text: Node(i - 1, f'o{i}\n', [], i == 0, text, [1, 2], np.ones(2, bool), np.float32([-.1, -.2]),
                              dict(entropy=np.float32(entropy)))
  return Episode(Task('t'), [node(i, text) for i, text in enumerate(texts)], range(len(texts)))


def paid(verdicts, channel='task'):
  assert all(set(v) == {channel} and not any(v[channel][:-1]) for v in verdicts)
  return [v[channel][-1] for v in verdicts]


def test_how_answers_are_read():
  said = [episode('<sql> Q </sql>', '<answer>Ok.</answer>'), episode('<answer>no'),
          episode('<answer>1</answer> <answer>"2"</answer>'), episode('')]
  assert answers(said) == ['<answer>ok.</answer>', '<answer>no', '<answer>1</answer> <answer>"2"</answer>', None]
  assert answers(said, answer='answer') == ['ok', None, '2', None]
  assert answers(said, answer='sql') == [None] * 4 and answers(said, answer='sql', of='episode') == ['q', None, None, None]
  assert answers(said, answer=r'\d') == [None, None, '2', None] and answers(said, answer=r'>(\w)') == ['o', 'n', '1', None]
  with pytest.raises(ValueError, match="of is 'last' or 'episode'"):
    answers(said, of='first')


def test_majority():
  said = [episode('x', 'a'), episode('A!'), episode('b'), episode('')]
  assert paid(majority(said)) == [1, 1, 0, 0]
  assert paid(majority(said, train=3, into='vote'), 'vote') == [1, 1, 0, None]
  assert paid(majority(said[1:3])) == [1, 0], 'a tie goes to the first'
  nothing = [episode(''), episode(''), episode('b')]
  assert paid(majority(nothing)) == [1, 1, 0] and paid(majority(nothing, missing='abstains')) == [0, 0, 1]
  assert paid(majority(said, same=lambda a, b: {a, b} <= {'a', 'b'})) == [1, 1, 1, 0]
  for wrong in (dict(missing='wins'), dict(into='format')):
    with pytest.raises(ValueError):
      majority(said, **wrong)


def test_empo():
  """Answers a, a, b and none: shares .5 .5 .25 .25, of which the last is not paid."""
  said = [episode('a'), episode('a'), episode('b'), episode('')]
  assert paid(empo(said)) == [.5, .5, .25, 0]
  assert paid(empo([episode(x) for x in 'abcd'])) == [0] * 4 and paid(empo([episode('a')])) == [0]
  assert paid(empo(said, low=1.1)) == [0] * 4 and paid(empo(said, low=1., high=1.1)) == [.5, .5, .25, 0]     # entropy 1.0397
  free = [episode('a'), episode('a'), episode(''), episode('o0'), episode('c')]
  assert paid(empo(free, form='free')) == [.4, .4, -.5, 0, .2]
  assert paid(empo([episode(x) for x in 'abcdef'], form='free')) == [0] * 6
  # 4 of 5 words are 0.8, not above it
  assert paid(empo([episode('is it b c z')] * 2, form='free', question=lambda e: 'what is it b c ?')) == [1, 1]
  assert paid(empo([episode('is it b c')] * 2, form='free', question=lambda e: 'what is it or b c ?')) == [0, 0]


def test_an_answer_ends_in_the_last_cluster_that_takes_it():
  """c is like a and like b, which are not alike."""
  same = lambda a, b: a == b or 'c' in (a, b)
  assert clusters('abc', same) == [0, 1, 1]
  assert paid(empo([episode(x) for x in 'abc'], same=same)) == [1 / 3, 2 / 3, 2 / 3]


def test_scope_votes_with_confidence():
  """Two unsure episodes say a, one sure one says b: exp(-2) + exp(-2) < exp(-.1)."""
  said = [episode('a', entropy=(2., 2.)), episode('a', entropy=(2., 2.)), episode('b'), episode('')]
  assert paid(scope_ttrl(said)) == [0, 0, 1, 0] and paid(majority(said)) == [1, 1, 0, 0]
  assert paid(scope_ttrl(said, confidence='logp')) == [1, 1, 0, 0]
  assert vote(['a', None, 'b'], [.1, 9., .2]) == 'b' and vote([None], [1.]) is None and vote(['a', 'b'], [.5, .5]) == 'a'
  one = episode('a', entropy=(0., 2.))      # one step: exp of nothing and of -2, mean .57; split behind its first id the same here
  assert paid(scope_ttrl([one, episode('b', entropy=(.5, .5))])) == [0, 1] and paid(scope_ttrl([one], breaks=(1,))) == [1]
  with pytest.raises(ValueError, match='subgroups of 3 do not divide 4'):
    scope_ttrl(said, sizes=(3,))


def test_scope_chooses_a_size():
  """(rho, delta): (.5, 2) and (1, 1) do not beat each other and scale to (0, 1) and (1, 0); (.4, 2) is beaten. lambda .7 prefers rho."""
  rho, delta = (.4, .5, 1.), (2., 2., 1.)
  assert choose(rho, delta, .7) == 2 and choose(rho, delta, .3) == 1 and choose([1.] * 3, [1.] * 3, .7) == 0


def test_scope_subgroups_have_labels_of_their_own():
  """One voter a label and subgroups of one: a label is what somebody said, drawn anew for each; the same call draws the same."""
  said = [episode(f'{i % 4}') for i in range(16)]
  one = paid(scope_ttrl(said, votes=1, sizes=(1,)))
  assert 0 < sum(one) < 16 and one == paid(scope_ttrl(said, votes=1, sizes=(1,))) != paid(scope_ttrl(said, votes=1, sizes=(1,), salt=3))
  assert sum(paid(scope_ttrl(said, votes=1, sizes=(16,)))) == 4


def by_number(asked):
  """A judge that likes large numbers; it says so after some talk."""
  def judge(text):
    asked.append(text)
    return 'Of 3 things:\n' + ' '.join(re.search(f'{which} answer:\n(.*)', text)[1] for which in ('First', 'Second')) + '\n'
  return judge


def run(*said, judge=None, **kw):
  asked = []
  got = paid(asyncio.run(arena([episode(str(s)) for s in said], judge=judge or by_number(asked), **kw)))
  return got, len(asked)


def test_brackets():
  assert bracket(8) == [0, 7, 3, 4, 1, 6, 2, 5] and bracket(5) == [0, 3, 4, 1, 2] and bracket(2) == [0, 1] and bracket(1) == [0]


def test_arena_ranks():
  """N - 1 matches for seeds, N - 1 in the bracket, each asked twice."""
  got, asked = run(*range(1, 9))
  assert got == pytest.approx([i / 7 for i in range(8)]) and asked == 2 * 14
  assert run(3, 1, 2) == ([1, .5, 0], 8) and run(7) == ([1], 0)      # the seeds are 3 2 1: 3 beats 2, and then 1, which had no match


def test_a_bye_stands_first_in_the_next_round():
  """Three that are equal: 0 beats 1, 2 has no match; then 2 stands before 0 and wins the tie."""
  assert run(5, 5, 5)[0] == [.5, 0, 1]


def test_losers_of_a_round_by_their_mean():
  """Seeds 0 1 2 3; 0 beats 3 and 1 beats 2 in the first round; 3 had the better scores."""
  table = {(0, 1): (9, 5), (0, 2): (9, 4), (0, 3): (9, 3), (1, 2): (5, 1)}

  async def compare(i, j):
    return table[i, j]
  assert asyncio.run(tournament(4, compare)) == [0, 1, 3, 2]      # 2: (4 + 1) / 2 < 3: (3 + 3) / 2


def test_the_place_in_the_prompt_does_not_matter():
  """A judge that gives the first answer 3 more: both orders are added. (1 has no match, and loses to 3 in the last.)"""
  def judge(text):
    a, b = (float(re.search(f'{which} answer:\n(.*)', text)[1]) for which in ('First', 'Second'))
    return f'{a + 3} {b}'
  assert run(1, 2, 3, judge=judge)[0] == [.5, 0, 1] and run(2, 4, 1, 3, judge=judge)[0] == run(2, 4, 1, 3)[0]


def test_arena_writes_task_or_vote():
  with pytest.raises(ValueError, match="into is 'task' or 'vote'"):
    arena([], judge=len, into='rank')


def test_no_verdict_for_anybody():
  async def silent(text):
    return None if 'First answer:\n2' in text else '1, 2'
  assert run(1, 2, 3, judge=silent)[0] == [None] * 3 and run(1, 3, 4, judge=silent)[0] != [None] * 3
  assert run(1, 2, judge=lambda text: 'I like both, 7 and 8')[0] == [None] * 2
  assert run(1, 2, judge=lambda text: 'first=1 second=2', scores=r'first=(\d) second=(\d)')[0] != [None] * 2


def test_matches_of_a_round_are_asked_at_the_same_time():
  """Six questions for the seeds of four players, four in the first round, two in the last."""
  waiting, most = [], []

  async def judge(text):
    waiting.append(text)
    await asyncio.sleep(.01)
    most.append(len(waiting))
    await asyncio.sleep(.01)
    waiting.remove(text)
    return '1 2'
  run(1, 2, 3, 4, judge=judge)
  assert sorted(set(most)) == [2, 4, 6] and len(most) == 12
