"""Checklist rewards: the weighted share of passed items, CM2's group of five, judges that say nothing or nonsense."""

import asyncio

import pytest

from rlx.judges.scripted import scripted
from rlx.rewards.checklist import checklist, passes
from rlx.types import Episode, Node, Task


def paid(judge, *texts, data=None, into='turn', **kw):
  nodes = [Node(i - 1, f'obs {i} ', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  return asyncio.run(checklist(Episode(Task('t', data), nodes, range(len(nodes))), judge=judge, into=into, **kw))[into]


HAS = scripted(rules=[(rf'Last turn:\n[^\n]*{w}[^\n]*\n\nQuestion: {w}\?', f'I looked.\n{v}')
                      for w, v in (('a', 'Yes'), ('b', '**yes**.'), ('c', 'YES'))], otherwise='No')
ITEMS = [dict(question='a?', weight=2.), dict(question='b?', weight=1., turn=0), dict(question='c?', weight=1., turn=1)]


def test_by_hand():
  """Turn 0 has a (2) and b (1), turn 1 has a (2) and c (1), turn 2 only a."""
  assert paid(HAS, 'a', 'c', 'a', items=ITEMS) == pytest.approx([2 / 3, 1 / 3, 1.])
  assert paid(HAS, 'a b', 'b', 'b', items=ITEMS) == pytest.approx([1., 0., 0.])
  assert paid(HAS, 'b', items=ITEMS) == pytest.approx([1 / 3])                    # the item of turn 1 never comes
  assert paid(HAS, 'c', 'c', items=ITEMS[2:]) == [0., 1.]                         # turn 0 has no item


def test_the_group_of_five():
  """Turn rewards 1 .5 .5 0 .25 (CM2's example: advantages .55 .05 .05 -.45 -.2)."""
  items = [dict(question=f'{w}?') for w in 'abcd']
  judge = scripted(rules=[(rf'Last turn:\n[^\n]*{w}[^\n]*\n\nQuestion: {w}\?', 'Yes') for w in 'abcd'], otherwise='No')
  u = [paid(judge, text, items=items)[0] for text in ('abcd', 'ab', 'cd', '-', 'a')]
  assert u == [1., .5, .5, 0., .25]
  assert [x - sum(u) / 5 for x in u] == pytest.approx([.55, .05, .05, -.45, -.2])


def test_where_the_checklist_stands():
  for data in (dict(checklist=ITEMS), type('Data', (), dict(checklist=ITEMS))()):
    assert paid(HAS, 'a', data=data, items=[dict(question='c?')]) == pytest.approx([2 / 3])
  assert paid(HAS, 'c', data={}, items=[dict(question='c?')], into='checklist') == [1.]


def test_a_judge_that_does_not_say():
  for answer in (None, '', 'Perhaps.', 'yes and no', 'Yes, because it does.'):
    judge = scripted(rules=[(r'Question: c\?', answer)], otherwise='Yes')
    assert paid(judge, 'x', 'y', 'z', items=ITEMS) == [1., None, 1.], answer
  assert paid(scripted(), 'x', 'y', items=ITEMS) == [None, None]


@pytest.mark.parametrize('text, want', [('No\nYes', True), ('yes\nthinking\n no. ', False), ('yesterday', None), ('know', None)])
def test_reading(text, want):
  assert passes(text) is want


def test_what_the_judge_is_shown():
  asked = []
  async def judge(prompt):
    asked.append(prompt)
    return 'Yes'
  paid(judge, 'say {one} ', 'later', items=[dict(question='Well?', turn=0)])
  assert len(asked) == 1 and 'before:\nobs 0\n\nLast turn:\nsay {one}\n\nQuestion: Well?' in asked[0] and 'later' not in asked[0]
  paid(judge, 'one ', 'two', items=[dict(question='Well?', turn=1)])
  assert 'before:\nobs 0 one obs 1\n\nLast turn:\ntwo\n' in asked[1]


def test_all_questions_are_under_way_at_once():
  async def run():
    waiting = asyncio.Barrier(4)
    async def judge(prompt):
      await waiting.wait()
      return 'Yes'
    nodes = [Node(i - 1, '', [], i == 0, 'x', [], None, None, {}) for i in range(2)]
    return await asyncio.wait_for(checklist(Episode(Task('t'), nodes, range(2)), judge=judge, items=ITEMS[:1] + [dict(question='b?')]), 5)
  assert asyncio.run(run()) == {'turn': [1., 1.]}


def test_faults():
  for kw, message in ((dict(items=ITEMS, into='task'), "into is 'turn' or 'checklist', not 'task'"), (dict(), 'task t has none'),
                      (dict(items=[dict(weight=1.)]), 'an item has a question'), (dict(items=[dict(question='a?', weight=0.)]), 'above 0')):
    with pytest.raises(ValueError, match=message):
      paid(HAS, 'a', **kw)
