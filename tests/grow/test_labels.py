"""Labels: equal text to equal integers."""

import functools
import random

import numpy as np
import pytest

from rlx.grow import forest, labels, segment
from rlx.types import Node
from tests import trees


def step(obs='', text='', **label):
  none = np.zeros(0, np.float32)
  return Node(-1, obs, [], False, text, [], none.astype(bool), none, {}, label=label)


def test_label_functions():
  nodes = [step('You see  a Drawer 1.\n', 'Open', state=7), step('you see a drawer 1.', 'open '),
           step('you see a drawer 2.', 'open')]
  assert labels.exact(nodes) == [n.obs for n in nodes]
  assert labels.exact(nodes, of='text') == ['Open', 'open ', 'open']
  assert labels.normalised(nodes) == ['you see a drawer 1.', 'you see a drawer 1.', 'you see a drawer 2.']
  assert labels.normalised(nodes, of='text') == ['open'] * 3
  assert labels.named(nodes, name='state') == [7, None, None]


def test_normalised_folds_case_beyond_ascii_and_keeps_punctuation():
  nodes = [step('STRASSE'), step('straße'), step('a, b'), step('a b'), step('\u00a0A\tb\u2003')]
  assert labels.normalised(nodes) == ['strasse', 'strasse', 'a, b', 'a b', 'a b']


def test_ids_are_dense_in_the_order_of_first_sight():
  column = labels.intern([['x', 'y', 'x'], ['z', 'y']])
  assert column.dtype == np.int32
  np.testing.assert_array_equal(column, [0, 1, 0, 2, 1])


@pytest.mark.parametrize('columns, expected', [
    ([[True, False], [None, True]], [1, 0, 0, 1]),                   # flags: no flag is False
    ([[3, -1, None]], [3, -1, 0]),                                   # numbers keep their value
    ([[np.int64(5), np.bool_(True)]], [5, 1]),
    ([[2**31, 4]], [0, 1]),                                          # too wide for i32: only equality is left
    ([['a', None, 'b'], [None, 'a', None]], [0, 1, 2, 3, 0, 4]),     # a step without a label equals no other
    ([[('a', 1), ('a', 2)], [('a', 1)]], [0, 1, 0]),
    ([[], ['a'], []], [0]),
    ([], []),
])
def test_intern(columns, expected):
  column = labels.intern(columns)
  assert column.dtype == np.int32
  np.testing.assert_array_equal(column, expected)


def test_intern_is_an_equivalence():
  rng = random.Random(0)
  columns = [[rng.choice('abcdefgh') + str(rng.randrange(3)) for _ in range(rng.randrange(40))] for _ in range(9)]
  flat = [v for c in columns for v in c]
  ids = labels.intern(columns).tolist()
  assert all((ids[i] == ids[j]) == (flat[i] == flat[j]) for i in range(len(flat)) for j in range(i))
  assert sorted(set(ids)) == list(range(len(set(flat))))


def test_a_piece_is_told_by_what_was_said_before_it():
  """Two steps answer the same observation; each is cut after its second id."""
  first = lambda *ids: trees.step(-1, ids, (9,), obs='Where?', end=1)
  whole = trees.group([first(1, 2, 3), first(1, 2, 4), first(5, 2, 3)])
  nodes = forest.cut(whole, functools.partial(segment.tokens, k=2)).nodes
  assert [n.ids for n in nodes] == [[1, 2], [3], [1, 2], [4], [5, 2], [3]]
  for label in (labels.exact, labels.normalised):
    got = label(nodes)
    assert got[0] == got[2] == got[4] and got[1] == got[3] and len({got[0], got[1], got[5]}) == 3
