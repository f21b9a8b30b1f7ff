"""CRAFT-GUI's mixed reward (arXiv:2508.11360): actions by rule, answers by a scripted judge."""

import asyncio
import json

import pytest

from rlx.judges.scripted import scripted
from rlx.rewards import craft_gui as module
from rlx.rewards.craft_gui import action, craft_gui, same, score
from rlx.types import Episode, Node, Task


def episode(data, *texts):
  nodes = [Node(i - 1, f'screen {i}', [], i == 0, x, [], None, None, {}) for i, x in enumerate(texts)]
  return Episode(Task('t', data), nodes, range(len(texts)))


def act(**said):
  return f'I will. <action>{json.dumps(said)}</action>'


def paid(gold, *texts, judge=None, **kw):
  return asyncio.run(craft_gui(episode(dict(steps=gold), *texts), judge=judge or scripted(), **kw))['gui']


CLICK = dict(type='click', args=dict(point=[0, 0, 10, 20], button='left'))


def test_actions():
  assert paid([CLICK], act(type='click', args=dict(point=[5, 20], button=' LEFT '))) == [3.]
  assert paid([CLICK], act(type='click', args=dict(point=[11, 20], button='left'))) == [2.5], 'one argument of two'
  assert paid([CLICK], act(type='click')) == [2.] and paid([CLICK], act(type='swipe', args=CLICK['args'])) == [1.]
  assert paid([CLICK], 'click left') == [0.] and paid([CLICK], '<action>{"type"</action>') == [0.]
  assert paid([dict(type='back')], act(type='Back')) == [3.], 'nothing to get wrong'
  weights = dict(weight_format=.5, weight_type=.25, weight_args=4.)
  assert paid([CLICK], act(type='click', args=dict(point=[5, 20])), **weights) == [2.75]


def test_answers():
  judge = scripted(rules={'Question:\nhow many\\?.*Right answer:\n4\n.*Given answer:\nfour\n': 'Well.\nScore: 9',
                          'screen 0.*\n7\n': 'Score: 2/10'})
  asks = dict(question='how many?', answer=4)
  assert paid([asks], act(type='answer', args=dict(text='four')), judge=judge) == [1.9]
  assert paid([asks], 'four', judge=judge) == [.9], 'all that was said, out of form'
  assert paid([dict(answer=4)], act(type='answer', args=dict(text='7')), judge=judge, weight_judged=2.) == [1.4], 'the screen asked'


def test_a_judge_that_says_nothing_or_nonsense():
  asks, said = dict(question='?', answer='x'), act(type='answer', args=dict(text='y'))
  for judge in (scripted(), scripted(otherwise='good'), scripted(otherwise='Score: 11')):
    assert paid([asks, CLICK], said, act(type='click', args=CLICK['args'] | dict(point=[1, 1])), judge=judge) == [None, 3.]


def test_steps_beyond_the_gold_and_before_its_end():
  assert paid([CLICK], act(type='click'), act(type='click'), 'x') == [2., 0., 0.]
  assert paid([CLICK, CLICK, CLICK], act(type='click')) == [2.]


def test_the_gold_and_the_reading_may_be_functions():
  e = episode(None, 'go 3', 'x')
  got = asyncio.run(craft_gui(e, judge=scripted(), gold=lambda e: [dict(type='go', args=dict(to='3'))] * len(e.nodes),
                              read=lambda text: dict(type=text[:2], args=dict(to=text[3:])) if ' ' in text else None))
  assert got == {'gui': [3., 0.]}
  with pytest.raises(ValueError, match="needs tasks whose data has 'steps'; task t has none"):
    asyncio.run(craft_gui(e, judge=scripted()))


@pytest.mark.parametrize('said, want, right', [
    ('a  B', 'A b', True), ('a', 'b', False), (3, 3, True), (3, '3', False), ([1, 2], [1, 2], True), ([1, 2], (0, 0, 1, 2), True),
    ([1, 3], [0, 0, 1, 2], False), (['1', 2], [0, 0, 1, 2], False), (None, None, True)])
def test_same(said, want, right):
  assert same(said, want) is right


def test_reading():
  assert action('<action>{"type": "a"}</action> <action>{"type": "b", "args": {"k": 1}}</action>') == dict(type='b', args=dict(k=1))
  for text in ('', '<action>[]</action>', '<action>{}</action>', '<action>{"type": "a", "args": 3}</action>'):
    assert action(text) is None
  texts = 'Score: 10', '**score - 0.5**', 'Score: 3\nScore: 7 / 10', 'Score: ten', None
  assert [score(t) for t in texts] == [1., .05, .7, None, None]


def test_what_it_says():
  assert craft_gui.grain == 'episode' and module.writes == ('reward/gui', 'judged/gui')
