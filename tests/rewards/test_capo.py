"""CAPO's marks: what of a critique is read, votes over critiques, judges that say nothing or nonsense."""

import asyncio

import pytest

from rlx.judges.scripted import scripted
from rlx.rewards._asking import attempt
from rlx.rewards.capo import capo, wrong
from rlx.types import Episode, Node, Task


def episode(*texts, data=None):
  nodes = [Node(i - 1, f' [{i}] ' if i else 'How much?', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  return Episode(Task('t', dict(answer='42') if data is None else data), nodes, range(len(texts)))


def marks(judge, *texts, data=None, **kw):
  return asyncio.run(capo(episode(*texts, data=data), judge=judge, **kw))['process']


def says(*answers):
  """A judge that gives its k-th answer to sample k."""
  async def judge(prompt, *, sample=0):
    return answers[sample]
  return judge


def test_the_table_of_the_paper():
  """Steps paid W r - P 1{wrong}, W = 2, P = 1, of three the second wrong: 2 1 2 and 0 -1 0."""
  process = marks(scripted(otherwise='It adds up wrongly.\nWrong steps: 2'), 'a', 'b', 'c')
  assert process == [0., -1., 0.]
  assert [2. * 1 + p for p in process] == [2., 1., 2.] and [2. * 0 + p for p in process] == [0., -1., 0.]


@pytest.mark.parametrize('vote, want', [
    ('intersection', [-1., 0., 0., 0., 0.]), ('majority', [-1., -1., -1., 0., 0.]), ('union', [-1., -1., -1., -1., 0.])])
def test_votes(vote, want):
  """Of four critiques 4, 3, 2, 1 and none name the five steps; the majority is k / 2 or more."""
  judge = says(*(f'Wrong steps: {s}' for s in ('1, 2, 3', '1 2', '1, 2 and 3', '1, 4')))
  assert marks(judge, *'abcde', vote=vote) == want


def test_critiques_that_cannot_be_read_are_left_out():
  good, lines = 'Wrong steps: 2', [f'Wrong steps: {said}' for said in ('3', '0', '-1', 'maybe', '')]
  for text in (None, '', 'Nice!', *lines):
    assert marks(says(good, text, good, text), 'a', 'b') == [0., -1.]
    assert marks(says(text), 'a', 'b', critiques=1) == [None, None], text
  assert marks(says(good, None, 'Wrong steps: none', None), 'a', 'b', vote='majority') == [0., -1.]
  assert marks(scripted(), 'a', 'b') == [None, None]                                          # a silent judge


@pytest.mark.parametrize('text, want', [
    ('Wrong steps: none', set()), ('**Wrong steps: None.**', set()), ('wrong step: 3', {3}), ('Wrong steps: [1, 2]', {1, 2}),
    ('Wrong steps: 1\nNo, wait.\nWrong steps: 2 and 3\n', {2, 3}), ('the wrong steps: 1', None), ('Wrong steps: 1.5', None),
    ('Wrong steps: none of 1', None), ('Wrong steps: ' + '1' * 5000, None)])
def test_reading(text, want):
  assert wrong(text, 3) == want


def test_what_the_judge_is_shown():
  asked = []
  async def judge(prompt, *, sample=0):
    asked.append((prompt, sample))
    return 'Wrong steps: none'
  assert marks(judge, ' add {x} ', 'stop', critiques=3) == [0., 0.]
  assert [k for _, k in asked] == [0, 1, 2] and len({p for p, _ in asked}) == 1
  assert attempt(episode(' add {x} ', 'stop')) == 'Step 1: add {x}\nObserved: [1]\nStep 2: stop'
  assert 'How much?' in asked[0][0] and 'Right answer:\n42\n' in asked[0][0] and 'Step 2: stop' in asked[0][0]
  marks(judge, 'a', answer=None, data={})
  assert 'Right answer' not in asked[-1][0]


def test_all_critiques_are_under_way_at_once():
  async def run():
    waiting = asyncio.Barrier(4)
    async def judge(prompt, *, sample=0):
      await waiting.wait()      # comes back only when four wait
      return 'Wrong steps: 1'
    return await asyncio.wait_for(capo(episode('a'), judge=judge), 5)
  assert asyncio.run(run()) == {'process': [-1.]}


def test_faults():
  for kw, message in ((dict(vote='all'), "vote is 'intersection', 'majority' or 'union', not 'all'"),
                      (dict(critiques=0), 'critiques must be at least 1, not 0'),
                      (dict(data={}), "data has 'answer', or answer=None; task t has none")):
    with pytest.raises(ValueError, match=message):
      marks(scripted(), 'a', **kw)
