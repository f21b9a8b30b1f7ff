"""DAPO's overlong punishment (arXiv:2503.14476, eq. 13; verl `reward_manager/dapo.py`)."""

import jax
import numpy as np
import pytest

from rlx import toy
from rlx.transforms.length_penalty import length_penalty


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


@pytest.mark.parametrize('length, paid', [(75, 0.), (80, 0.), (90, -.5), (100, -1.), (110, -1.5)])
def test_length_penalty_of_the_sheet(length, paid):
  """limit 100, buffer 20."""
  b = toy.batch([-1], n_tokens=length, task=1)
  close(length_penalty(b, limit=100., buffer=20.).nodes.reward['length'], [paid])
  close(length_penalty(b, limit=100, buffer=20, factor=.5, into='all', channel='task').nodes.reward['all'], [1 + paid / 2])


def test_length_penalty_of_paths_and_steps():
  """Sampled tokens only, a shared step in both its paths; steps 4 3 | 1 2 with limit 6, buffer 2 -> paths 4 + 3, 4 + 1; done and failed."""
  b = toy.batch([-1, 0, 0, 0], n_tokens=[4, 3, 1, 9], n_obs=5, task=0, end=[0, 1, 2, 3])
  run = lambda **kw: jax.jit(lambda b: length_penalty(b, buffer=2., **kw))(b).nodes.reward['length']
  close(run(limit=6.), [0, -1.5, -.5, 0])
  close(run(limit=3., per='step'), [-1.5, -1, 0, -4])
  with pytest.raises(ValueError, match='turn'):
    run(limit=1., per='turn')


def test_length_penalty_adds_to_a_judged_channel():
  b = toy.batch([-1, -1], task=[1, 1], judged=dict(task=[True, False]), n_tokens=3)
  assert not length_penalty(b).nodes.judged.keys() - {'task'}
  assert length_penalty(b, channel='task').nodes.judged['length'].tolist() == [True, False]
