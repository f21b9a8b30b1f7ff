"""R1-Router's step reward (arXiv:2505.22095), by hand."""

import pytest

from rlx.rewards import routed as module
from rlx.types import Episode, Node, Task

routed = module.routed
STEPS = [dict(question='who directed Alien', source='text'), dict(question='when was he born', source='none')]


def paid(*texts, answer='Ridley Scott', steps=STEPS, **kw):
  nodes = [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  return routed(Episode(Task('t', dict(steps=steps, answer=answer)), nodes, range(len(texts))), **kw)['turn']


def ask(question, *sources):
  return f'<think>hm</think> <sub-question> {question} </sub-question><ret>{", ".join(sources)}</ret>'


def test_it_says_what_it_is():
  assert routed.grain == 'episode' and module.writes == ('reward/turn',)


@pytest.mark.parametrize('text, expected', [
    (ask('who directed Alien', 'text'), 1.), (ask('Who directed ALIEN?', ' Text '), 1.),
    (ask('who directed Alien', 'table'), .5), (ask('who directed Alien', 'text', 'table'), .5),     # two named: not one and right
    (ask('who made Alien', 'text'), .5 * 2 / 3 + .5), (ask('x', 'image'), 0.), (ask('', 'text'), .5),
    (ask('who directed Alien', 'web'), 0.), (ask('who directed Alien', 'text', 'none'), 0.), (ask('who directed Alien', ''), 0.),
    ('<ret>text</ret>', 0.), ('<sub-question>who directed Alien</sub-question>', 0.), ('nothing', 0.),
    (ask('who directed Alien', 'text') + '<answer>Ridley Scott</answer>', 0.)])
def test_retrieval(text, expected):
  assert paid(text) == [pytest.approx(expected)]


def test_a_step_is_held_against_the_gold_step_of_its_number():
  assert paid(ask('who directed Alien', 'text'), ask('when was he born', 'none'), ask('when was he born', 'none'),
              '<answer>Scott, Ridley!</answer>') == [1., 1., 0., 1.]
  assert paid(ask('when was he born', 'none')) == [0.]
  assert paid('<q>x</q><kb>web</kb>', '<a>Ridley Scott</a>', tags=('q', 'kb', 'a'), kinds=('web',), similarity=lambda a, b: .5,
              steps=[dict(question='y', source='web')]) == [.75, 1.]


@pytest.mark.parametrize('said, gold, expected', [
    ('ridley scott', 'Ridley Scott', 1.), ('it is Ridley Scott', 'Ridley Scott', 1.), ('Scott', 'Ridley Scott', 0.), ('', 'x', 0.),
    ('a b c d', 'a b c d e', 0.), ('a b c', 'a b c d e f', .5), ('a a a', 'a a b b c c', 1 / 3),
    ('b', ['a a a a a a', 'b'], 1.), ('a a a', ['a a a a a a', 'b'], 0.)])
def test_answer(said, gold, expected):
  assert paid(f'<answer>{said}</answer>', answer=gold) == [pytest.approx(expected)]


def test_it_needs_gold():
  with pytest.raises(ValueError, match='task t has not both'):
    paid('x', answer=None)
