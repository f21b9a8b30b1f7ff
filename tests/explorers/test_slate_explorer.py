"""SLATE's rollout, the wish `Cut` it stands on, and `forked`, with a real policy on a small game."""

import numpy as np
import pytest

from rlx import walk
from rlx.explorers.forked import forked
from rlx.explorers.slate import slate
from rlx.types import Cut, Expand
from tests.grow import game
from tests.grow.game import grow, scripted


def children(g, i):
  return [j for j, n in enumerate(g.nodes) if n.parent == i]


@pytest.mark.parametrize('eta', [0., .7])
def test_one_candidate_goes_on_and_all_are_episodes(eta):
  """The game pays the number of ids said and ends after 3 actions: 3 x 4 candidates, 9 cut off and 3 + 1 at the end."""
  for g in grow(n=3, explorer=slate(width=4, eta=eta, channel='task', budget=5)):
    tip = -1
    for depth in range(3):
      here = children(g, tip)
      assert len(here) == 4
      ends = [g.nodes[i].end for i in here]
      if depth == 2:
        assert ends == [1] * 4
        break
      tip, = (i for i in here if not g.nodes[i].end)
      assert sorted(ends) == [0, 2, 2, 2]
      if eta == 0:
        assert g.nodes[tip].reward['task'] == max(g.nodes[i].reward['task'] for i in here)
    assert len(list(walk.episodes(g))) == 3 + 3 + 4


def test_the_budget_cuts_the_chosen_one_too():
  g, = grow(n=1, explorer=slate(width=3, channel='task', budget=2))
  assert len(g.nodes) == 6 and sorted(n.end for n in g.nodes) == [0, 2, 2, 2, 2, 2]


def test_the_choice_follows_the_advantages():
  """r = 2 1 0 -2 2.075: A = .820 .228 -.364 -1.548 .864, P at eta .7 = .369 .158 .068 .013 .393 (the paper's helper functions)."""
  from rlx.explorers.slate import _choose
  r = np.array([2, 1, 0, -2, 2.075])
  drawn = np.bincount([_choose(r, .7, 1e-6, (1, 2, s)) for s in range(4000)], minlength=5) / 4000
  np.testing.assert_allclose(drawn, [.369, .158, .068, .013, .393], atol=.025)
  assert _choose(r, 0., 1e-6, (0,)) == 4 and _choose(np.array([3.]), .7, 1e-6, (0,)) == 0


def test_what_is_cut_off_is_paid():
  """A reward of episodes sees each path that was cut; an environment's `cut` pays it."""
  class Pays(game.Game):
    def cut(self, state):
      return game.Step('', {'late': -1.}, end=2)
  seen = []
  def count(episode):
    seen.append(episode.steps)
    return dict(count=[0.] * (len(episode.steps) - 1) + [1.])
  count.writes = ('reward/count',)
  leaves = lambda view: [Cut([i for i, n in enumerate(view.nodes) if children(view, i) == []])]
  g, = grow(n=1, env=Pays(), rewards=(count,), explorer=scripted([Expand(width=2, limit=2)], leaves))
  assert sorted(map(len, seen)) == [2, 2] and [n.reward.get('late') for n in g.nodes if n.end == 2] == [-1, -1]
  assert all(n.reward['count'] == 1 for n in g.nodes if n.end == 2)


@pytest.mark.parametrize('nodes', [[0], [2]])
def test_only_a_path_that_stands_can_be_cut(nodes):
  with pytest.raises(ValueError, match=f'cuts step {nodes[0]} off, which has ended or goes on'):
    grow(n=1, explorer=scripted([Expand()], [Cut(nodes)]))


def test_forked():
  """Two rollouts share nothing; behind two steps each goes on as three paths of one more."""
  for g in grow(n=2, explorer=forked(width=2, steps=2, branches=3)):
    assert len(g.nodes) == 2 * 2 + 6 and len(list(walk.episodes(g))) == 6
    for first in children(g, -1):
      second, = children(g, first)
      assert len(children(g, second)) == 3
  g, = grow(n=1, explorer=forked(width=3, steps=3, branches=2))
  assert len(g.nodes) == 9, 'what has ended does not fork'
  with pytest.raises(ValueError, match='at least one step and one branch'):
    forked(steps=0)
