"""SPAE's step potential (arXiv:2601.03823): 1.5 acc conf + .5 acc - conf."""

import numpy as np

from rlx import toy
from rlx.transforms.spae_potential import spae_potential


def test_the_corners():
  # (acc, conf) = (1, 1), (0, 1), (0, 0), (1, 0)
  b = toy.batch([-1, 0, 1, 2], task=0, value=dict(acc=[1, 0, 0, 1], conf=[1, 1, 0, 0], low=[5, 6, 7, 8]))
  got = spae_potential(b)
  assert set(got.nodes.value) == {'acc', 'conf', 'low', 'potential'} and set(b.nodes.value) == {'acc', 'conf', 'low'}
  np.testing.assert_allclose(got.nodes.value['potential'], [1, -1, 0, .5], atol=1e-6)
  assert got.nodes.value['low'] is b.nodes.value['low'] and got.tokens is b.tokens


def test_between_the_corners():
  rng = np.random.default_rng(0)
  acc, conf = rng.uniform(size=(2, 9))
  b = toy.batch([-1] * 9, task=0, value=dict(acc=acc, conf=conf))
  want = [1.5 * a * c + .5 * a - c for a, c in zip(acc.tolist(), conf.tolist())]
  np.testing.assert_allclose(spae_potential(b).nodes.value['potential'], want, atol=1e-6)
