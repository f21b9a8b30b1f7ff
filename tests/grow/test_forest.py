"""Cutting steps: at branches, by a segmenter, both; what each piece keeps."""

import functools

import numpy as np
import pytest

from rlx import walk
from rlx.grow import forest, segment
from rlx.types import Span
from tests import trees
from tests.trees import group, step


def shape(g):
  """(parent, ids) of each piece."""
  return [(n.parent, n.ids) for n in g.nodes]


def read(g, i):
  """All ids up to the end of piece i."""
  return [*walk.ids_before(g.nodes, i), *g.nodes[i].ids]


def test_nothing_to_cut_returns_the_same_group():
  g = group([step(-1, [1, 2], [90]), step(0, [3], [91], end=1)])
  assert forest.cut(g) is g


def test_a_branch_inside_an_action():
  """1 goes on below 0, 2 left 0 after three ids: what both share stands once."""
  g = group([step(-1, [10, 11, 12, 13, 14], [90]), step(0, [20], [91], end=1), step(-1, [10, 11, 12, 30], [90], stem=(0, 3), end=1)])
  cut = forest.cut(g)
  assert shape(cut) == [(-1, [10, 11, 12]), (0, [13, 14]), (1, [20]), (0, [30])]
  assert [n.context for n in cut.nodes] == [[90], [], [91], []]
  assert [n.fresh for n in cut.nodes] == [True, False, False, False]
  assert [n.end for n in cut.nodes] == [0, 0, 1, 1] and all(n.stem is None for n in cut.nodes)
  assert g.nodes[0].ids == [10, 11, 12, 13, 14] and g.nodes[2].stem == (0, 3), 'the prompt itself is not touched'


def test_two_branches_at_one_offset_share_one_piece():
  g = group([step(-1, [1, 2, 3], end=1), step(-1, [1, 2, 4], stem=(0, 2), end=1), step(-1, [1, 2, 5], stem=(0, 2), end=1)])
  assert shape(forest.cut(g)) == [(-1, [1, 2]), (0, [3]), (0, [4]), (0, [5])]


def test_a_branch_of_a_branch():
  """2 left the branch 1 behind its stem: at its own token 5."""
  g = group([step(-1, [1, 2, 3, 4], end=1), step(-1, [1, 2, 5, 6], stem=(0, 2), end=1), step(-1, [1, 2, 5, 7], stem=(1, 3), end=1)])
  assert shape(forest.cut(g)) == [(-1, [1, 2]), (0, [3, 4]), (0, [5]), (2, [6]), (2, [7])]


@pytest.mark.parametrize('via', [1, 2], ids=['a branch', 'a branch of a branch'])
def test_a_branch_inside_the_stem_of_a_branch(via):
  """The last one left `via` inside ids that are really 0's, so 0 is cut there."""
  g = group([step(-1, [1, 2, 3, 4], end=1), step(-1, [1, 2, 3, 5, 6], stem=(0, 3), end=1),
             step(-1, [1, 2, 3, 5, 7], stem=(1, 4), end=1), step(-1, [1, 8], stem=(via, 1), end=1)])
  assert shape(forest.cut(g)) == [(-1, [1]), (0, [2, 3]), (1, [4]), (1, [5]), (3, [6]), (3, [7]), (0, [8])]


def test_a_branch_exactly_where_the_stem_of_a_branch_ends():
  g = group([step(-1, [1, 2, 3], end=1), step(-1, [1, 2, 4], stem=(0, 2), end=1), step(-1, [1, 2, 5], stem=(1, 2), end=1)])
  assert shape(forest.cut(g)) == [(-1, [1, 2]), (0, [3]), (0, [4]), (0, [5])]


def test_a_branch_deep_in_a_tree():
  """The step that is left has a parent that is itself cut."""
  g = group([step(-1, [1, 2, 3]), step(0, [4, 5, 6], [90], end=1), step(-1, [1, 9], stem=(0, 1), end=1),
             step(0, [4, 7], [90], stem=(1, 1), end=1)])
  cut = forest.cut(g)
  assert shape(cut) == [(-1, [1]), (0, [2, 3]), (1, [4]), (2, [5, 6]), (0, [9]), (2, [7])]
  assert read(cut, 5) == [1, 2, 3, 90, 4, 7]


def test_the_rest_of_an_abandoned_step_is_abandoned():
  """0 was given up, its first ids live on in the branch."""
  cut = forest.cut(group([step(-1, [1, 2, 3]), step(-1, [1, 9], stem=(0, 1), end=1)]))
  assert shape(cut) == [(-1, [1]), (0, [2, 3]), (0, [9])]
  assert sorted(trees.lived(cut)) == [0, 2]


def test_what_each_piece_keeps():
  """Rewards, values, metrics, the end and the text on the last piece; labels on all; context and observation on the first."""
  g = group([step(-1, [1, 2, 3, 4, 5], [90], obs='o', text='abcde', end=2, reward=dict(task=1., judge=None), value=dict(v=.5),
                  metrics=dict(m=2.), label=dict(state='s'), sampled=[1, 0, 1, 1, 0], branch=7)], prompt=dict(p=1.), index=3)
  spans = [Span(0, 2, frozenset({'think'}), cut=True), Span(1, 4, frozenset({'answer'}))]
  cut = forest.cut(g, lambda ids, text, offsets: spans)
  a, b = cut.nodes
  assert (a.ids, b.ids, a.parent, b.parent) == ([1, 2], [3, 4, 5], -1, 0)
  assert (a.context, b.context, a.fresh, b.fresh, a.obs, b.obs, a.text, b.text) == ([90], [], True, False, 'o', '', '', 'abcde')
  assert (a.reward, a.value, a.metrics, a.end) == ({}, {}, {}, 0)
  assert (b.reward, b.value, b.metrics, b.end) == (dict(task=1., judge=None), dict(v=.5), dict(m=2.), 2)
  assert a.label == b.label == dict(state='s') and (a.branch, b.branch) == (7, 7)
  np.testing.assert_array_equal(a.sampled, [1, 0])
  np.testing.assert_array_equal(b.sampled, [1, 1, 0])
  np.testing.assert_array_equal(b.logp, np.where([1, 1, 0], trees.logp([3, 4, 5]), 0))
  np.testing.assert_array_equal(b.stream['entropy'], g.nodes[0].stream['entropy'][2:])
  assert {k: v.tolist() for k, v in a.role.items()} == dict(think=[True, True], answer=[False, True])
  assert {k: v.tolist() for k, v in b.role.items()} == dict(think=[False] * 3, answer=[True, True, False])
  assert cut.prompt == g.prompt and cut.index == 3 and cut.task == g.task


def test_branch_and_segmenter_together():
  """Cut every two ids, and where 1 left after three; 1 is cut behind its stem only."""
  g = group([step(-1, [1, 2, 3, 4, 5], end=1), step(-1, [1, 2, 3, 6, 7, 8], stem=(0, 3), end=1)])
  cut = forest.cut(g, functools.partial(segment.tokens, k=2))
  assert shape(cut) == [(-1, [1, 2]), (0, [3]), (1, [4]), (2, [5]), (1, [6]), (4, [7, 8])]
  assert all(n.role['action'].all() for n in cut.nodes)


def test_segmenters_read_text_and_only_what_the_policy_said():
  told = []
  def spy(ids, text, offsets):
    told.append((ids, text, offsets))
    return [Span(0, 1, frozenset({'x'}), cut=True)]
  g = group([step(-1, [1, 2], text='view'), step(0, [3, 4], by='judge', end=1)])
  cut = forest.cut(g, spy, lambda ids: ('text', [(0, 2), (2, 4)]))
  assert told == [([1, 2], 'text', [(0, 2), (2, 4)])]
  assert shape(cut) == [(-1, [1]), (0, [2]), (1, [3, 4])] and cut.nodes[2].role == {}


def test_an_action_without_ids_stays_a_step():
  g = group([step(-1, [], [90], reward=dict(task=1.)), step(0, [1, 2], [91], end=1), step(0, [1], [91], stem=(1, 1), end=2)])
  cut = forest.cut(g, segment.turns)
  assert shape(cut) == [(-1, []), (0, [1]), (1, [2]), (1, [])]
  assert cut.nodes[0].reward == dict(task=1.) and [n.end for n in cut.nodes] == [0, 0, 1, 2]


@pytest.mark.parametrize('k', [None, 1, 3])
@pytest.mark.parametrize('seed', range(12))
def test_random_trees(seed, k):
  """Paths read the same before and after, shared ids stand once, parents before children, episodes keep text and rewards."""
  g, seen = trees.grow(seed, steps=14)
  cut = forest.cut(g, k and functools.partial(segment.tokens, k=k))
  assert all(n.parent < i for i, n in enumerate(cut.nodes))
  assert all(n.stem is None for n in cut.nodes)
  ids = [t for n in cut.nodes for t in n.ids]
  assert len(ids) == len(set(ids)) and set(ids) == {t for n in g.nodes for t in n.ids}
  assert not k or max(len(n.ids) for n in cut.nodes) <= k
  ends = [i for i, n in enumerate(cut.nodes) if n.metrics]                 # the last piece of each step, in order
  assert [read(cut, i) for i in ends] == seen
  assert [cut.nodes[i].value for i in ends] == [n.value for n in g.nodes]
  for whole, pieces in zip(walk.episodes(g, (1, 2, 3)), walk.episodes(cut, (1, 2, 3)), strict=True):
    assert whole.text == pieces.text
    last = lambda e: (e.nodes[-1].end, e.nodes[-1].reward, e.nodes[-1].label)
    assert last(whole) == last(pieces)
    assert [n.reward['task'] for n in whole.nodes] == [n.reward['task'] for n in pieces.nodes if n.reward]
  for n in cut.nodes:
    np.testing.assert_array_equal(n.logp, np.where(n.sampled, trees.logp(n.ids), 0).astype(np.float32))
    np.testing.assert_array_equal(n.stream['entropy'], np.asarray(n.ids, np.float32) / 7)
