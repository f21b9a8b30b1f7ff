"""R1-Router's step reward (OpenBMB/R1-Router@c0a0c1ba `step.py`), by hand."""

import random

import pytest

from rlx.rewards import routed as module
from rlx.types import Episode, Node, Task

routed = module.routed

# how an action names its parts: the release's tags, without its <think>
ASK = '<sub-question> {} </sub-question> <ret> {} </ret>'.format
ANSWER = '<answer> {} </answer>'.format
DATA = dict(steps=[dict(question='who wrote emma', source='text'), dict(question='which film is based on it', source='table')],
            answer='jane austen')


def paid(*texts, data=DATA, **how):
  nodes = [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)]
  got = routed(Episode(Task('t', data), nodes, range(len(texts))), **how)
  assert set(got) == {'turn'} and all(isinstance(r, float) for r in got['turn'])
  return got['turn']


def test_it_says_what_it_is():
  assert routed.grain == 'episode' and tuple(module.writes) == ('reward/turn',)


def test_whole_episode():
  # .5 similarity + .5 the right source, step by step against the gold steps; then the recall of the answer
  texts = ASK('who wrote emma', 'text'), ASK('which film is based on it', 'text'), ANSWER('it was jane austen')
  assert paid(*texts) == pytest.approx([1., .5, 1.])
  assert paid(*texts[:2]) == pytest.approx([1., .5])   # cut off before the answer


@pytest.mark.parametrize('said, reward', [
    (ASK('who wrote emma', 'text'), 1.), (ASK('who wrote emma', 'image'), .5), (ASK('who wrote emma', 'none'), .5),
    # token overlap: 2 of 3 said, 2 of 3 gold, F1 .6667; 1 of 1 and 1 of 3, F1 .5
    (ASK('who wrote persuasion', 'text'), .8333), (ASK('emma', 'text'), .75), (ASK('emma', 'image'), .25),
    (ASK('nothing shared', 'text'), .5), (ASK('nothing shared', 'table'), 0.),
    (ASK('who wrote emma', 'text, image'), .5),                                  # two, both known: not exactly one
    (ASK('who wrote emma', 'web'), 0.), (ASK('who wrote emma', 'text, none'), 0.), (ASK('who wrote emma', 'text, web'), 0.),
    ('who wrote emma text', 0.), ('<sub-question> who wrote emma </sub-question>', 0.), ('<ret> text </ret>', 0.),
    ('<sub-question> who wrote emma <ret> text </ret>', 0.), ('', 0.),
    (ASK('Who wrote EMMA?', 'Text'), 1.), (ASK('', 'text'), .5), (ASK('who wrote emma', ''), 0.),
    (ASK('who wrote emma', 'text') + ANSWER('jane austen'), 0.)])                # a question or an answer, not both
def test_retrieval(said, reward):
  assert paid(said, ANSWER('x'))[0] == pytest.approx(reward, abs=1e-4)


def test_a_step_is_held_against_the_gold_step_of_its_number():
  second = ASK('which film is based on it', 'table')
  assert paid(second, second, second, ANSWER('Austen, Jane!')) == pytest.approx([0., 1., 0., 1.])   # there is no third


def test_tags():
  said = '<q>who wrote emma</q><kb>text</kb>', '<a>jane austen</a>'
  assert paid(*said, tags=('q', 'kb', 'a')) == pytest.approx([1., 1.]) and paid(*said) == [0., 0.]


def test_gold_none_is_a_source_like_the_others():
  data = dict(DATA, steps=[dict(question='who wrote emma', source='none')])
  assert paid(ASK('who wrote emma', 'none'), data=data) == pytest.approx([1.])
  assert paid(ASK('who wrote emma', 'text'), data=data) == pytest.approx([.5])


def test_kinds():
  data = dict(DATA, steps=[dict(question='q', source='web')])
  assert paid(ASK('q', 'web'), data=data, kinds=('web', 'text', 'none')) == pytest.approx([1.])
  assert paid(ASK('q', 'table'), data=data, kinds=('web', 'text', 'none')) == [0.]


def test_a_similarity_of_ones_own():
  asked = []
  got = paid(ASK('who wrote it', 'text'), ANSWER('jane'), similarity=lambda a, b: asked.append((a.strip(), b)) or .25)
  assert asked == [('who wrote it', 'who wrote emma')] and got == pytest.approx([.625, 0.])


@pytest.mark.parametrize('gold, said, reward', [
    ('jane austen', 'jane austen', 1.), ('jane austen', 'i think austen jane', 1.), ('jane austen', 'jane', 0.),
    ('one two three four five', 'one two three four', 0.),                       # five words: all of them or nothing
    ('one two three four five six', 'six five four and more', .5),               # six: the recall
    ('one two three four five six', 'seven', 0.), ('one two three four five six', 'one two three four five six', 1.),
    (['one two three four five six', 'seven'], 'one two three', 0.),             # several: all of it or nothing
    (['jane austen', 'miss austen'], 'miss jane austen', 1.), (['emma', 'persuasion'], 'dune', 0.)])
def test_answer(gold, said, reward):
  assert paid(ANSWER(said), data=dict(steps=[], answer=gold)) == pytest.approx([reward])


def test_an_answer_without_its_tag_is_malformed():
  assert paid(ASK('who wrote emma', 'text'), 'jane austen') == [1., 0.]


def test_tasks_need_gold():
  with pytest.raises(ValueError, match='task t'):
    paid(ANSWER('x'), data={})


def block(text, tag):
  """What stands between the first `<tag>` and the first `</tag>` behind it, found by hand; None where one is missing."""
  low = text.lower()
  opened = low.find(f'<{tag}>')
  closed = low.find(f'</{tag}>', opened)
  return text[opened + len(tag) + 2:closed].lower().split() if 0 <= opened < closed else None


def in_common(said, gold):
  left, count = list(gold), 0
  for word in said:
    if word in left:
      left.remove(word)
      count += 1
  return count


def twin(texts, data, kinds=('text', 'image', 'table', 'none')):
  out = []
  for j, text in enumerate(texts):
    asked, sent, said, r = block(text, 'sub-question'), block(text, 'ret'), block(text, 'answer'), 0.
    if said is not None and sent is None:
      gold = data['answer'].split()
      r = in_common(said, gold) / len(gold)
      r = r if len(gold) > 5 or r == 1 else 0.
    elif said is None and asked is not None and sent is not None and j < len(data['steps']):
      bases, gold = ' '.join(sent).split(', '), data['steps'][j]['question'].split()
      if all(b in kinds for b in bases) and not (len(bases) > 1 and 'none' in bases):
        r = .5 * 2 * in_common(asked, gold) / (len(asked) + len(gold)) + .5 * (bases == [data['steps'][j]['source']])
    out.append(r)
  return out


@pytest.mark.parametrize('seed', range(30))
def test_twin(seed):
  draw = random.Random(seed)
  some = lambda n: ' '.join(draw.choices(['who', 'wrote', 'Emma', 'emma', 'jane', 'austen', 'is', 'film'], k=n))
  bases = lambda: ', '.join(draw.choices(['text', 'image', 'table', 'none', 'web'], k=draw.choice([1, 1, 1, 2])))
  parts = [lambda: ASK(some(draw.randint(1, 5)), bases()), lambda: ANSWER(some(draw.randint(1, 8))), lambda: some(2), lambda: '<ret> text </ret>',
           lambda: f'<sub-question> {some(2)}', lambda: ASK('emma', bases()) + ANSWER('jane austen')]
  texts = [draw.choice(parts + parts[:2] * 3)() for _ in range(6)]
  gold = dict(steps=[dict(question=some(draw.randint(1, 5)).lower(), source=draw.choice(['text', 'table', 'none'])) for _ in range(4)],
              answer=some(draw.choice([2, 5, 7])).lower())
  assert paid(*texts, data=gold) == pytest.approx(twin(texts, gold))
