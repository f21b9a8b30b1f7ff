"""Transforms of learned credit: SPAE's potential and SPA's step rewards."""

import numpy as np

from rlx import toy, tree
from rlx.transforms.spa import spa
from rlx.transforms.spae_potential import spae_potential


def close(got, want):
  np.testing.assert_allclose(np.asarray(got), want, atol=1e-6)


def test_potential_at_its_corners():
  """arXiv:2601.03823: sure and right 1, sure and wrong -1, neither 0, right and unsure .5; and .5 .8: .6 + .4 - .5."""
  b = toy.batch([-1] * 5, value=dict(conf=[1, 1, 0, 0, .5], acc=[1, 0, 0, 1, .8]))
  got = spae_potential(b).nodes.value
  close(got['potential'], [1, -1, 0, .5, .5])
  assert set(got) == {'conf', 'acc', 'potential'} and set(spae_potential(b, into='phi').nodes.value) == {'conf', 'acc', 'phi'}


def test_spa_rewards():
  """c at last tokens .2 and .5 with an observation between; g 1 and 0: 2 c + .25 g."""
  b = toy.batch([-1, 0], task=[0, 1], format=[1, 0], n_tokens=2, n_obs=1, stream={'value/c': [[0, .1, .2, 9, .4, .5]]})
  got = spa(b, head='c', alpha=2., beta=.25, into='step')
  close(got.nodes.reward['step'], [.65, 1.])
  close(tree.returns(got.nodes, 'step')[0], [.65, 1.65])
  close(spa(b, head='c', grounding=None).nodes.reward['spa'], [.2, .5])
  assert not got.nodes.judged and set(got.nodes.reward) == {'task', 'format', 'step'}


def test_spa_has_no_verdict_where_grounding_has_none():
  b = toy.batch([-1, 0], task=0, format=[1, 1], judged=dict(format=[True, False]), stream={'value/progress': [.1, .2]})
  got = spa(b).nodes
  assert got.judged['spa'].tolist() == [True, False] and not tree.returns(got, 'spa')[1].any()
