"""ARPO's attribution (arXiv:2507.19849): shared tokens have the mean advantage of their rollouts."""

import forests
import numpy as np
import pytest

from rlx import testing, toy
from rlx.estimators.arpo import arpo
from rlx.estimators.grpo import grpo

# two rollouts fork behind step 1, a third is on its own: R = 1 0 0
EXAMPLE = dict(parent=[-1, 0, 1, 1, -1], task=[0, 0, 1, 0, 0])


@pytest.mark.parametrize('mode, expected', [
    (dict(std=False), [1 / 6, 1 / 6, 2 / 3, -1 / 3, -1 / 3]),
    (dict(ddof=0), [.353553, .353553, 1.414214, -.707107, -.707107]),            # std sqrt(2) / 3
    (dict(), [.288675, .288675, 1.154701, -.577350, -.577350])], ids=str)
def test_worked_example(mode, expected):
  np.testing.assert_allclose(forests.run(arpo, toy.batch(**EXAMPLE), **mode), expected, atol=1e-5)


def test_it_is_the_soft_form():
  """Rollouts apart, each with its own A on the shared prefix: weighed alike, what a shared token gets is the mean over them."""
  apart = np.asarray(arpo(toy.batch([-1, 0, 1, -1, 3, 4, -1], task=[0, 0, 1, 0, 0, 0, 0])))
  joint = np.asarray(arpo(toy.batch(**EXAMPLE)))
  np.testing.assert_allclose(joint[:2], (apart[:2] + apart[3:5]) / 2, atol=1e-6)
  np.testing.assert_allclose(joint[2:], apart[[2, 5, 6]], atol=1e-6)


def test_and_so_it_is_grpo():
  b = testing.batch(2)
  np.testing.assert_array_equal(arpo(b), grpo(b))


def test_failed_and_abandoned_rollouts():
  np.testing.assert_allclose(arpo(toy.batch([-1, 0, 0, 0, -1], task=[0, 1, 0, 9, 9], end=[0, 1, 2, 3, 0]), std=False), [0, .5, -.5, 0, 0])
