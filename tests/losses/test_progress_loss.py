"""SPA's progress estimator (arXiv:2505.20732): the contributions of an episode's steps sum to its return."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, masked, toy
from rlx.learn import objective
from rlx.losses.progress import progress
from rlx.types import Out
from tests.estimators import forests


def twin(f, batch, said):
  """(mean over episodes of (sum of c - R)^2, its derivative by every token)."""
  at = {}                                # where each step's last trained token stands
  for sequence in forests.sequences(batch):
    at |= {step: (r, t) for r, t, step, trained in sequence if trained}
  found = [e for group in forests.episodes(f, 'task').values() for e in group]
  value, slope = 0., np.zeros(said.shape)
  for steps, ret in found:
    miss = sum(said[at[s]] for s in steps) - ret
    value += miss ** 2 / len(found)
    for s in steps:
      slope[at[s]] += 2 * miss / len(found)
  return value, slope


@functools.cache
def jitted(head):
  """The loop's sum and its derivative: the mean over sequences, what no ended episode runs through left out."""
  def total(c, batch):
    loss, keep = progress() if head == 'progress' else progress(head=head), objective.credited(batch, batch.tokens.mask)
    assert loss.heads == (head,)
    kept, none = masked.narrow(batch, keep), jnp.zeros(keep.shape)
    out = Out(logp=none, entropy=none, value={head: c}, extra={})
    _, stats = loss.prepare(loss.init(), jax.lax.stop_gradient(out), kept, none, jax.random.key(0))
    num, den = average.seq_mean(batch, keep)
    return jnp.sum(jnp.where(keep, loss.term(out, kept, none, stats) * num, 0.)) / jnp.sum(den)
  return jax.jit(jax.value_and_grad(total))


def value_and_slope(batch, said, head='progress'):
  rows, width = np.shape(said)
  said = jnp.pad(jnp.asarray(said, jnp.float32), [(0, forests.ROWS - rows), (0, forests.WIDTH - width)])
  value, slope = jitted(head)(said, forests.padded(batch))
  return float(value), np.asarray(slope)[:rows, :width]


def test_by_hand():
  # two paths from one step, c = .2 (its last token), .3, .1: (.5 - 1)^2 and (.3 - 0)^2, mean .17; slopes -1 and .6, halved
  batch = toy.batch([-1, 0, 0], task=[0, 1, 0], n_tokens=[2, 1, 1])
  value, slope = value_and_slope(batch, [[7., .2, .3], [9., 9., .1]], head='c')
  np.testing.assert_allclose(slope, [[0, -.2, -.5], [0, 0, .3]], atol=1e-6)
  assert math.isclose(value, .17, rel_tol=1e-5)


@functools.cache
def forest(seed, pack):
  f = forests.chains(seed)
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 5 + seed) % 3 for i in range(len(f.parent))], n_obs=1)
  return f, batch, np.random.default_rng(seed).normal(size=batch.tokens.node.shape)


@pytest.mark.parametrize('seed, pack', [(0, 1), (1, 2), (2, 3)])
def test_twin(seed, pack):
  f, batch, said = forest(seed, pack)
  (value, slope), (want, slopes) = value_and_slope(batch, said), twin(f, batch, said)
  np.testing.assert_allclose(slope, slopes, atol=2e-6)
  assert math.isclose(value, want, rel_tol=2e-5)
