"""`flat_and_greedy`: the rollouts of ReMax (arXiv:2310.10505), and the label `drawn` that tells them apart."""

import numpy as np
import pytest

from rlx import config, walk
from rlx.explorers.flat_and_greedy import flat_and_greedy
from rlx.grow import engine as engines
from rlx.grow import labels
from rlx.types import Expand, Node, View
from tests.grow import game

NEVER = engines.Stop()


def test_wishes():
  """`width` branches at the run's own sampling and one greedy, all from the prompt to the end, asked for once."""
  explorer, task = flat_and_greedy(width=3), game.Game().tasks('train')[0]
  state, wishes = explorer.expand(explorer.init(task), View(task, [], 0, {}), (0, 0, 0))
  assert all(w._replace(width=1, sampling=None) == Expand() for w in wishes)
  drawn = [dict(w.sampling or {}) for w in wishes for _ in range(w.width)]
  assert sorted(map(str, drawn)) == sorted(map(str, [{}] * 3 + [dict(temperature=0.)]))
  assert explorer.expand(state, View(task, [], 0, {}), (0, 0, 1))[1] == []
  assert config.build('explorer', 'flat_and_greedy').writes == ('stream/temperature',)


def test_drawn():
  step = lambda greedy: Node(-1, '', [], False, '', [1, 2], np.ones(2, bool), np.zeros(2, np.float32), {}, greedy=greedy)
  assert labels.drawn([step(True), step(False)]) == [0, 1]
  assert config.build('label', 'drawn').fn is labels.drawn


@pytest.mark.parametrize('temperature', [1., .7])
def test_grown(temperature):
  """Three sampled episodes and one that says the most probable token everywhere; `drawn` finds it, and nothing else."""
  groups = game.grow(game.engine(NEVER), n=3, explorer=flat_and_greedy(width=3), sampling=dict(temperature=temperature),
                     streams=('temperature',))
  for g in groups:
    episodes = list(walk.episodes(g))
    assert len(episodes) == 4 and len(g.nodes) == 12
    drawn = [int(x) for x in labels.drawn(g.nodes)]
    for e in episodes:
      best = []
      for i in e.steps:
        n, before = g.nodes[i], walk.ids_before(g.nodes, i)
        likely = game.logits_by_hand([*before, *n.ids]).argmax(1)[len(before) - 1:-1]
        best.append(likely.tolist() == list(n.ids))
        assert drawn[i] == (not best[-1]), 'a step of 8 sampled ids is never the most probable one here'
      assert len(set(best)) == 1, 'an episode is greedy from its start to its end'
    assert sum(drawn) == 9
