"""ConvSearch-R1's reward (BeastyZ/ConvSearch-R1@35370aec `rewrite_r1.py`): ranks, formats, retrievers."""

import asyncio

import pytest

from rlx.rewards import rank_incentive as module
from rlx.rewards.rank_incentive import rank_incentive, shaped
from rlx.types import Episode, Node, Task


def episode(text, data):
  nodes = [Node(i - 1, '', [], i == 0, t, [], None, None, {}) for i, t in enumerate(['before', text])]
  return Episode(Task('t', data), nodes, range(2))


def paid(text, search, data=None, **kw):
  got = asyncio.run(rank_incentive(episode(text, dict(relevant=['gold']) if data is None else data), search=search, **kw))
  assert set(got) == {'rank'} and got['rank'][0] == 0.
  return got['rank'][1]


def at(rank):
  """A retriever that finds 'gold' at a rank."""
  return lambda query, depth: [f'{query}{i}' if i + 1 != rank else 'gold' for i in range(depth)]


GOOD = '<think>so</think>\n<rewrite>who?</rewrite>'


@pytest.mark.parametrize('rank, value', [(1, 2.), (2, 17 / 9), (5, 14 / 9), (10, 1.), (11, 89 / 90), (55, .5), (100, 0.), (101, 0.)])
def test_ranks_of_the_release(rank, value):
  """-r/9 + 19/9 up to rank 10, -r/90 + 10/9 up to 100, 0 beyond."""
  assert abs(paid(GOOD, at(rank)) - value) < 1e-9 and abs(shaped(rank, 10, 100) - value) < 1e-9


def test_it_never_rises_with_the_rank_and_the_pieces_meet():
  values = [shaped(r, 10, 100) for r in range(1, 120)]
  assert values == sorted(values, reverse=True) and abs(values[9] - 1.) < 1e-9 and shaped(None, 10, 100) == 0.
  assert [shaped(r, 3, 5) for r in (1, 2, 3, 4, 5, 6)] == [2., 1.5, 1., .5, 0., 0.]


def test_the_best_of_several_passages():
  found = lambda query, depth: ['x', 'b', 'y', 'a']
  assert abs(paid(GOOD, found, dict(relevant=['a', 'b', 'c'])) - 17 / 9) < 1e-9
  assert paid(GOOD, found, type('Data', (), dict(relevant=['z']))()) == 0. and paid(GOOD, lambda q, d: []) == 0.
  assert paid(GOOD, found, dict(passage=['x']), gold='passage') == 2.
  assert paid(GOOD, lambda query, depth: ['go', 'gold'], dict(relevant='gold')) == 17 / 9, 'a text is one id'


@pytest.mark.parametrize('text', ['<rewrite>who?</rewrite>', '<think>so</think><rewrite>who?</rewrite>', 'so ' + GOOD,
                                  '<think>so</think>\n'])
def test_out_of_form(text):
  """What it would have found does not count."""
  assert paid(text, at(1)) == -.1 and paid(text, at(1), broken=-1.) == -1.


def test_without_a_form():
  assert paid('<q>who?</q> <q>what?</q>', lambda query, depth: ['gold'] if query == 'who?' else [], tag='q', pattern=None) == 2.
  assert paid('who?', at(1), pattern=None) == 0.


def test_no_more_is_asked_for_than_counts():
  asked = []
  def search(query, depth):
    asked.append((query, depth))
    return ['x'] * 60 + ['gold']
  assert paid(GOOD, search, near=2, far=50) == 0. and asked == [('who?', 50)]


def test_a_retriever_may_be_a_coroutine():
  async def search(query, depth):
    await asyncio.sleep(0)
    return ['gold']
  assert paid(GOOD, search) == 2.


def test_what_it_says():
  assert rank_incentive.grain == 'episode' and module.writes == ('reward/rank', 'judged/rank')
  with pytest.raises(ValueError, match="needs tasks whose data has 'relevant'; task t has none"):
    paid(GOOD, at(1), {})
  for near, far in ((1, 100), (100, 100)):
    with pytest.raises(ValueError, match='1 < near < far'):
      paid(GOOD, at(1), near=near, far=far)
