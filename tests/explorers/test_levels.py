"""`levels`: the tree of TreePS-RAG (arXiv:2601.06922), by hand and grown."""

import collections

import numpy as np
import pytest

from rlx import walk
from rlx.explorers.levels import levels
from rlx.grow import engine as engines
from rlx.types import Expand, Node, View
from tests.grow import game

NEVER = engines.Stop()


def node(parent, text, end=0):
  return Node(parent, '', [], False, text, [], np.ones(0, bool), np.zeros(0, np.float32), {}, end=end)


def test_wishes_by_hand():
  explorer, task = levels(widths=(3, 2)), game.Game().tasks('train')[0]
  ask = lambda state, nodes, running=0: explorer.expand(state, View(task, nodes, running, {}), (0, 0, 0))
  state, wishes = ask(explorer.init(task), [])
  assert wishes == [Expand(node=-1, width=3, limit=1)]
  assert ask(state, [node(-1, 'a')], running=2) == (state, []), 'it waits for the whole level'
  # one has ended, one says what another has said
  state, wishes = ask(state, [node(-1, 'a'), node(-1, 'b', end=1), node(-1, 'a')])
  assert wishes == [Expand(node=0, width=2, limit=None)]
  assert ask(state, [node(-1, 'a'), node(0, 'c')])[1] == []


def test_the_same_words_behind_different_steps_are_different():
  explorer, task = levels(widths=(2, 1, 1)), game.Game().tasks('train')[0]
  tree = [node(-1, 'a'), node(-1, 'b'), node(0, 'c'), node(1, 'c')]
  assert explorer.expand(2, View(task, tree, 0, {}), (0,))[1] == [Expand(node=2), Expand(node=3)]
  tree = [node(-1, 'a'), node(-1, 'a')]
  assert len(levels(widths=(2, 1, 1), distinct=False).expand(1, View(task, tree, 0, {}), (0,))[1]) == 2


@pytest.mark.parametrize('slots', [4, 16])
def test_grown(slots):
  """Episodes of three steps: 2 first steps, 2 below each, and those go on to the end: a leaf each."""
  groups = game.grow(game.engine(NEVER, slots=slots, buckets=()), n=2, explorer=levels(widths=(2, 2), distinct=False))
  for g in groups:
    depth = collections.Counter(len(walk.path(g.nodes, i)) for i in range(len(g.nodes)))
    assert depth == {1: 2, 2: 4, 3: 4}
    assert sum(n.end == 1 for n in g.nodes) == 4 and all(n.end in (0, 1) for n in g.nodes)
    assert [collections.Counter(n.parent for n in g.nodes)[i] for i, n in enumerate(g.nodes) if n.parent == -1] == [2, 2]


def test_widths():
  for wrong in ((), (2, 0), (1.5,)):
    with pytest.raises(ValueError, match='widths are whole numbers of at least 1'):
      levels(widths=wrong)
