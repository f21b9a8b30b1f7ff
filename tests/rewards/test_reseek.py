"""ReSeek's reward: each case of a verdict, the example of the paper's note, and a twin."""

import random

import pytest

from rlx.rewards.reseek import recall, reseek
from rlx.types import Episode, Node, Task


def episode(*turns, gold='Paris', task=1.):
  """Turns are (what was observed before, what was said); the last one is paid `task`."""
  nodes = [Node(i - 1, obs, [], i == 0, text, [], None, None, {}) for i, (obs, text) in enumerate(turns)]
  if task != 'unpaid':
    nodes[-1].reward['task'] = task
  return Episode(Task('t', dict(answer=gold)), nodes, range(len(nodes)))


SEARCH = '<search> capital </search>'
GOOD, BAD = 'It is Paris.', 'It rains.'


def test_the_example():
  """Verdicts right, wrong yes, right, then an exact match, gamma 1: .3 - .6 + .3 + 1 = 1."""
  e = episode(('Capital of France?', SEARCH), (BAD, f'<judge>No</judge>{SEARCH}'), (BAD, f'<judge>Yes</judge>{SEARCH}'),
              (GOOD, '<judge>Yes</judge>'), ('', '<answer>Paris</answer>'))
  paid = reseek(e)['judge']
  assert paid == [0., .3, -.6, .3, 1.] and sum(paid) == pytest.approx(1.)
  assert reseek(e, outcome=None)['judge'] == [0., .3, -.6, .3, 0.]
  assert reseek(e, gamma=.5)['judge'] == pytest.approx([0., .3, -.3, .075, .125])


@pytest.mark.parametrize('obs, said, want', [
    (GOOD, '<judge> yes </judge>', .3), (BAD, '<judge>No</judge>', .3), (BAD, '<judge>Yes</judge>', -.6), (GOOD, '<judge>No</judge>', -.3),
    (GOOD, 'Yes', -.1), (GOOD, '<judge>perhaps</judge>', -.1), (GOOD, '<judge>Yes', -.1),
    (GOOD, '<judge>Yes</judge><judge>No</judge>', .3)])
def test_a_verdict(obs, said, want):
  assert reseek(episode(('q', SEARCH), (obs, said), task='unpaid'), missing=-.1)['judge'] == [0., want]


def test_who_owes_a_verdict():
  e = episode((GOOD, '<judge>Yes</judge>'), (GOOD, '<judge>Yes</judge>'), task=0.)
  assert reseek(e)['judge'] == [0., 0.]                          # nothing was searched
  assert reseek(e, search=None)['judge'] == [.3, .3]
  e = episode(('q', '<find>x</find>'), ('o2', '<switch>1</switch>'), task=0., gold='2')
  assert reseek(e, search='find', tag='switch', words=('1', '0'), similarity=lambda obs, gold: obs == f'o{gold}')['judge'] == [0., .3]


def test_the_outcome():
  assert reseek(episode(('q', SEARCH), (GOOD, '<judge>Yes</judge>'), task=None))['judge'] == [0., None]
  assert reseek(episode(('q', 'Paris'), task='unpaid'))['judge'] == [0.]


def test_the_lexical_default():
  assert recall('In PARIS, France.', 'paris') == 1. and recall('new town', 'New York') == .5 and recall('x', '?') == 0.
  e = lambda gold: episode(('q', SEARCH), ('Lima or New Delhi', '<judge>Yes</judge>'), gold=gold, task=0.)
  paid = lambda gold, **kw: reseek(e(gold), **kw)['judge'][1]
  assert paid('New York') == -.6 and paid('New York', threshold=.4) == .3
  assert paid(['Oslo', 'Lima']) == .3 and paid(7) == -.6
  assert paid('x', similarity=lambda obs, gold: .7) == -.6 and paid('x', similarity=lambda obs, gold: .71) == .3   # above, not at


def test_twin():
  rng = random.Random(0)
  for _ in range(200):
    gamma, steps = rng.random(), rng.randint(1, 6)
    turns, terms, searched = [], [], False
    for _ in range(steps):
      found, verdict, searches = rng.random() < .5, rng.choice(('Yes', 'No', None)), rng.random() < .7
      turns.append((GOOD if found else BAD, (f'<judge>{verdict}</judge>' if verdict else '') + (SEARCH if searches else '')))
      if searched:
        terms.append({('Yes', True): .3, ('No', False): .3, ('Yes', False): -.6, ('No', True): -.3}.get((verdict, found), 0.))
      searched = searches
    terms.append(float(rng.random() < .5))
    want = sum(gamma**t * r for t, r in enumerate(terms))
    assert sum(reseek(episode(*turns, task=terms[-1]), gamma=gamma)['judge']) == pytest.approx(want)


@pytest.mark.parametrize('gold', [None, []])
def test_a_task_without_an_answer(gold):
  with pytest.raises(ValueError, match="data has 'answer'; task t has none"):
    reseek(episode(('q', 'a'), gold=gold))
