"""Segmenters on text whose tokens are known."""

import re

import pytest

from rlx import config
from rlx.grow import segment
from rlx.types import Span


def tokenised(pieces):
  """(ids, text, offsets) of the tokens in `pieces`."""
  offsets, at = [], 0
  for p in pieces:
    offsets.append((at, at + len(p)))
    at += len(p)
  return list(range(len(pieces))), ''.join(pieces), offsets


def words(text):
  return tokenised(re.findall(r'</?\w+>|\s*[^\s<]+|\s+|<', text))


def said(spans, action):
  """(role, text, cut) of each span."""
  _, text, offsets = action
  return [(''.join(sorted(s.roles)), text[offsets[s.start][0]:offsets[s.stop - 1][1]], s.cut) for s in spans]


def steps(spans, action):
  return [text for _, text, cut in said(spans, action) if cut]


def test_turns():
  assert segment.turns([5, 6, 7], 'abc', []) == [Span(0, 3, frozenset({'action'}))]
  assert segment.turns([], '', []) == [Span(0, 0, frozenset({'action'}))]


def test_tags():
  action = words('so <plan>look at it</plan> then <sql>SELECT 1</sql>')
  spans = segment.tags(*action, names=('plan', 'sql'))
  assert said(spans, action) == [('plan', '<plan>look at it</plan>', False), ('sql', '<sql>SELECT 1</sql>', False)]
  assert segment.tags(*action, names=('answer',)) == []
  assert segment.tags(*action, names=()) == []


@pytest.mark.parametrize('text, expected', [
    ('<a>x</a> <a>y</a>', [('a', '<a>x</a>'), ('a', '<a>y</a>')]),                       # repeated
    ('<a>x y', [('a', '<a>x y')]),                                                        # never closed: to the end
    ('<a>x<b>y</b>z', [('a', '<a>x'), ('b', '<b>y</b>')]),                                # never closed: to the next tag
    ('<a>x<a>y</a>z</a>', [('a', '<a>x'), ('a', '<a>y</a>')]),                            # opened again
    ('<a>x<b>y</b>z</a>', [('a', '<a>x<b>y</b>z</a>'), ('b', '<b>y</b>')]),               # nested: both roles inside
    ('<a>x<b>y</a>z</b>', [('a', '<a>x<b>y</a>'), ('b', '<b>y</a>z</b>')]),               # crossed
    ('</a>x<c>y</c><A>z</A>', []),                                                        # stray, other name, other case
])
def test_tags_of_untidy_text(text, expected):
  action = words(text)
  assert [s[:2] for s in said(segment.tags(*action, names=('a', 'b')), action)] == expected


@pytest.mark.parametrize('text, expected', [
    ('so <a>x</a> then <b>y</b> done', ['so <a>x</a> then ', '<b>y</b> done']),
    ('<a>x<b>y</b>z</a>w<b>v', ['<a>x<b>y</b>z</a>w', '<b>v']),         # an inner block is a role, not a step
    ('no block', []),
    ('<a>x</a>', ['<a>x</a>']),
])
def test_tags_that_cut(text, expected):
  action = words(text)
  spans = segment.tags(*action, names=('a', 'b'), cut=True)
  cuts = [s for s in spans if s.cut]
  assert steps(spans, action) == expected
  assert [s for s in spans if not s.cut] == segment.tags(*action, names=('a', 'b'))
  if cuts:   # every token in one step
    assert [i for s in cuts for i in range(s.start, s.stop)] == action[0]


def test_token_across_an_edge_belongs_to_the_block():
  action = tokenised(['so\n<', 'a', '>x</a', '><b>', 'y</b> ', 'end'])
  blocks = [('a', 'so\n<a>x</a><b>', False), ('b', '><b>y</b> ', False)]
  assert said(segment.tags(*action, names=('a', 'b')), action) == blocks
  assert steps(segment.tags(*action, names=('a', 'b'), cut=True), action) == ['so\n<a>x</a', '><b>y</b> end']


def test_tokens_without_width():
  ids, text, offsets = [0, 1, 2, 3], '<a>x</a>', [(0, 0), (0, 4), (4, 8), (8, 8)]   # as special tokens around the text are
  assert segment.tags(ids, text, offsets, names=('a',)) == [Span(1, 3, frozenset({'a'}))]
  assert segment.tags(ids, text, offsets, names=('a',), cut=True)[1:] == [Span(0, 4, cut=True)]


@pytest.mark.parametrize('pieces, expected', [
    (['It is 3.14', '.', ' Or', ' not?!', ' Yes', '.'], ['It is 3.14.', ' Or not?!', ' Yes.']),
    (['Yes.', '\n', '\n', 'So'], ['Yes.\n\n', 'So']),                      # the line's end goes with the line
    (['one', ' \n', ' two\n', 'three'], ['one \n', ' two\n', 'three']),
    (['Yes. No', '. Good', ' it'], ['Yes. No', '. Good', ' it']),          # across an end: by the first character
    (['Yes', '.\n', ' '], ['Yes.\n ']),                                   # nothing follows
])
def test_sentences(pieces, expected):
  action = tokenised(pieces)
  spans = segment.sentences(*action)
  assert said(spans, action) == [('action', t, True) for t in expected]
  assert [i for s in spans for i in range(s.start, s.stop)] == action[0]


def test_sentences_of_nothing_and_uncut():
  assert segment.sentences([], '', []) == []
  role = frozenset({'action'})
  assert segment.sentences(*tokenised(['a.', ' b']), cut=False) == [Span(0, 1, role), Span(1, 2, role)]


def test_tokens():
  role = frozenset({'action'})
  edges = [(s.start, s.stop, s.roles, s.cut) for s in segment.tokens([1, 2, 3, 4, 5], '', [], k=2)]
  assert edges == [(0, 2, role, True), (2, 4, role, True), (4, 5, role, True)]
  assert segment.tokens([], '', [], k=2) == []
  with pytest.raises(ValueError, match='k must be 1 or more, got 0'):
    segment.tokens([1], '', [], k=0)


def test_text_without_characters_is_refused():
  with pytest.raises(ValueError, match='2 ids, 0 offsets'):
    segment.tags([1, 2], '<a>', [], names=('a',))


def test_words_have_a_role():
  text = 'Wait, await: I check. However CHECKED'
  ids, offsets = list(range(len(text))), [(i, i + 1) for i in range(len(text))]
  whole, *found = segment.words(ids, text, offsets)
  assert whole == Span(0, len(text), frozenset({'action'})) and [text[s.start:s.stop] for s in found] == ['Wait', 'check', 'However']
  assert all(s.roles == {'trigger'} and not s.cut for s in found)
  assert segment.words(ids, text, offsets, of=()) == [whole]


@pytest.mark.parametrize('spec, writes', [
    ('turns', ('role/action',)), (dict(name='tags', names=('plan', 'act')), ('role/plan', 'role/act')), ('tags', ('role/think', 'role/answer')),
    ('sentences', ('role/action',)), (dict(name='words', role='hint'), ('role/hint', 'role/action'))])
def test_a_segmenter_says_its_roles(spec, writes):
  assert config.build('segment', spec).writes == writes
