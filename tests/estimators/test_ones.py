"""The credit of demonstrations: 1 where an ended episode runs through, by hand."""

import numpy as np

from rlx import toy
from rlx.estimators.ones import ones


def test_by_hand():
  """0-1 done, 0-2 abandoned, 3 failed, 4 cut off."""
  b = toy.batch([-1, 0, 0, -1, -1], end=[0, 1, 0, 3, 2], task=0)
  np.testing.assert_array_equal(ones(b), [1, 1, 0, 0, 1])
