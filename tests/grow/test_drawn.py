"""The greedy rollout of a prompt, from the explorer's wish to the label: what it says, and what it is trained at."""

import numpy as np
import pytest

from rlx import walk
from rlx.explorers.flat_and_greedy import flat_and_greedy, writes
from rlx.grow import engine as engines
from rlx.grow import forest, labels
from rlx.types import Node
from tests.grow import game


@pytest.mark.parametrize('temperature', [1., .7])
def test_the_last_rollout_is_greedy_and_labelled_so(temperature):
  """Its steps take the most probable ids, at which their log-probabilities are those at temperature 1; the others are sampled."""
  groups = game.grow(game.engine(engines.Stop()), n=2, explorer=flat_and_greedy(width=3), sampling=dict(temperature=temperature),
                     streams=tuple(w.partition('/')[2] for w in writes))
  for g in groups:
    nodes = forest.cut(g).nodes
    assert {n.branch for n in nodes} == {0, 1, 2, 3} and len(nodes) == 4 * 3
    for i, (n, label) in enumerate(zip(nodes, labels.drawn(nodes), strict=True)):
      assert label == (n.branch < 3)
      before = walk.ids_before(nodes, i)
      every = game.logits_by_hand([*before, *n.ids], temperature=temperature if label else 1.)[len(before) - 1:-1]
      if not label:
        assert n.ids == every.argmax(1).tolist()
      np.testing.assert_allclose(n.logp, every[np.arange(len(n.ids)), n.ids], atol=1e-4)


def test_a_branch_with_a_temperature_of_its_own_is_sampled_unless_greedy():
  """0 and 1 mean greedy, other temperatures and none do not; what another model said is nobody's draw."""
  def step(temperature, sampled=True):
    of = {} if temperature is None else dict(temperature=np.full(2, temperature, np.float32))
    return Node(-1, '', [], True, '', [3, 4], np.full(2, sampled), np.zeros(2, np.float32), of)
  assert labels.drawn([step(t) for t in (None, .5, 1., 0.)] + [step(0., False)]) == [1, 1, 0, 0, 1]
