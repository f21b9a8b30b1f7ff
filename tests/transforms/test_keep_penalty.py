"""HiPER's shaping (arXiv:2602.16165): hand numbers."""

import numpy as np
import pytest

from rlx import toy
from rlx.transforms.keep_penalty import keep_penalty

# a path of three that switches first, an episode of one that keeps, a path of two that keeps and switches
B = toy.batch([-1, 0, 1, -1, -1, 4], task=[0, 0, 1, 1, 0, 0], label=dict(switch=[1, 0, 0, 0, 0, 1], goal=[5, 5, 6, 7, 0, 3]))
# one first step shared by a path of two and one of three, all keep; then a failed and an abandoned episode, one without a verdict
SHARED = toy.batch([-1, 0, 0, 2, -1, 4, -1, 6, -1, 8], end=[0, 1, 0, 2, 0, 3, 0, 0, 0, 1], task=0,
                   judged=dict(task=[1] * 8 + [0, 1]), label=dict(switch=0, goal=[1, 2, 0, 3, 1, 2, 1, 2, 1, 2]))


@pytest.mark.parametrize('mode, expected', [
    (dict(), [0, -.1, .9, 1, -.15, 0]),                                      # -.3 / 3, nothing for an episode of one step
    (dict(form='fixed'), [0, -.3, .7, .7, -.3, 0]),
    (dict(consistency=-.5), [0, -.1, .4, 1, -.15, 0]),                       # only 5 -> 6; 0 says nothing, a switch may change
    (dict(total=-3., form='fixed', consistency=-.5), [0, -3, -2.5, -2, -3, 0])], ids=str)
def test_by_hand(mode, expected):
  got = keep_penalty(B, **mode).nodes
  np.testing.assert_allclose(got.reward['task'], expected, atol=1e-6)
  np.testing.assert_array_equal(got.label['switch'], B.nodes.label['switch'])


def test_shared_steps_and_steps_without_credit():
  half, third = -.3 / 2, -.3 / 3
  expected = [(half + third) / 2, half - .5, third, third] + [0] * 6          # goals 1 -> 2 differ; 1 -> 0 -> 3 do not
  np.testing.assert_allclose(keep_penalty(SHARED, consistency=-.5).nodes.reward['task'], expected, atol=1e-6)


def test_another_channel_and_a_form_that_is_none():
  b = toy.batch([-1, 0], task=0, turn=[1, 2], label=dict(switch=0, goal=1))
  got = keep_penalty(b, into='turn').nodes.reward
  np.testing.assert_allclose(got['turn'], [.85, 1.85], atol=1e-6)
  np.testing.assert_array_equal(got['task'], 0)
  with pytest.raises(ValueError, match="'normalised' or 'fixed', not 'x'"):
    keep_penalty(b, form='x')
