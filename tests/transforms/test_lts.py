"""LTS's usage credit (arXiv:2602.05965, from a note)."""

import numpy as np

from rlx import toy
from rlx.estimators.gigpo import gigpo
from rlx.transforms.lts import lts


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def test_lts_by_hand():
  """Two runs: yes and recalled, yes and not, no; the same in a run without reward, where nothing but the price is left."""
  yes, used = [1, 1, 0] * 2, [1, 0, 1] * 2
  b = toy.batch([-1, 0, 1, -1, 3, 4], task=[0, 0, 1, 0, 0, 0], label=dict(admit=yes, recalled=used))
  got = lts(b, beta=.5, sparse=.125)
  close(got.nodes.reward['lts'], [.375, -.125, 0, -.125, -.125, 0])
  assert lts(b).nodes.judged == {} and set(got.nodes.reward) == {'task', 'lts'}


def test_lts_adds_to_the_advantage_of_the_decision_alone():
  """`gigpo` with this channel as its penalty: GRPO's R - mean R plus the credit of the step."""
  b = toy.batch([-1, 0, -1, 2], task=[0, 1, 0, 0], label=dict(admit=1, recalled=[1, 0, 1, 1], state=0))
  adv = gigpo(lts(b, beta=.5, sparse=.125), weight=0., population='episodes', penalty='lts')
  close(adv, [.5 + .375, .5 - .125, -.625, -.625])


def test_lts_on_a_tree():
  """A shared decision: the share of rewarded runs, 1 of 2; a failed, an abandoned and an unjudged one neither count nor are paid."""
  b = toy.batch([-1, 0, 0, 0, 0, 0], task=[0, 1, 0, 1, 1, 1], end=[0, 1, 1, 3, 0, 1], judged=dict(task=[True] * 5 + [False]),
                label=dict(admit=1, recalled=1))
  close(lts(b, beta=1., sparse=.25).nodes.reward['lts'], [.25, .75, -.25, 0, 0, 0])
