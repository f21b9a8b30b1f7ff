"""The trajectory DPO of OPRL / iStar (arXiv:2509.19199; Tongyi-ConvAI/Qwen-Character@1de87a22 `rm_utils.py`), value and gradient.

The released update detaches q before the loss, so its model learns nothing; here the graph is whole.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, masked, toy
from rlx.learn import objective
from rlx.losses.trajectory_dpo import trajectory_dpo
from rlx.types import Out
from tests.estimators import forests


def twin(f, batch, logp, *, channel='task', ref='logp', beta=.05):
  """(mean over success x failure pairs of -log sigmoid(Q+ - Q-), its derivative by every token)."""
  before = np.asarray(batch.tokens.logp if ref == 'logp' else batch.tokens.stream[ref])
  tokens = {}
  for sequence in forests.sequences(batch):
    for r, t, step, trained in sequence:
      if trained:
        tokens.setdefault(step, []).append((r, t))
  quality = lambda steps: beta * sum(logp[at] - before[at] for s in steps for at in tokens[s]) / len(steps)
  pairs = [(good, bad) for group in forests.episodes(f, channel).values()
           for good, r in group if r > 0 for bad, other in group if other <= 0]
  value, slope = 0., np.zeros(logp.shape)
  for good, bad in pairs:
    wrong = 1 / (1 + math.exp(quality(good) - quality(bad)))
    value -= math.log(1 - wrong) / len(pairs)
    for steps, sign in ((good, -1), (bad, 1)):
      for at in (at for s in steps for at in tokens[s]):
        slope[at] += sign * wrong * beta / len(steps) / len(pairs)
  return value, slope


@functools.cache
def jitted(mode):
  """The loop's sum and its derivative: the mean over sequences, what no ended episode runs through left out."""
  def total(logp, batch):
    loss, keep = trajectory_dpo(**dict(mode)), objective.credited(batch, batch.tokens.mask)
    kept, none = masked.narrow(batch, keep), jnp.zeros(keep.shape)
    out = Out(logp=logp, entropy=none, value={}, extra={})
    _, stats = loss.prepare(loss.init(), jax.lax.stop_gradient(out), kept, none, jax.random.key(0))
    num, den = average.seq_mean(batch, keep)
    return jnp.sum(jnp.where(keep, loss.term(out, kept, none, stats) * num, 0.)) / jnp.sum(den)
  return jax.jit(jax.value_and_grad(total))


def value_and_slope(batch, logp, **mode):
  rows, width = logp.shape
  logp = jnp.pad(jnp.asarray(logp, jnp.float32), [(0, forests.ROWS - rows), (0, forests.WIDTH - width)])
  value, slope = jitted(tuple(mode.items()))(logp, forests.padded(batch))
  return float(value), np.asarray(slope)[:rows, :width]


# q = 2 -1 | 4 0 | -3 1, outcomes + - +, beta .05: Q = .025 .1 -.05
EXAMPLE = dict(parent=[-1, 0, -1, 2, -1, 4], task=[0, 10, 0, 0, 0, 10], logp=-5.)
LOGP = np.array([[-3., -6], [-1, -5], [-8, -4]])


def test_worked_example_gradient():
  # pairs (1, 2) and (3, 2): sigmoid(.075) = .518741, sigmoid(.15) = .537430; times .05 / 2 steps / 2 pairs
  slope = value_and_slope(toy.batch(**EXAMPLE), LOGP)[1]
  np.testing.assert_allclose(slope, [[-.00648427] * 2, [.01320214] * 2, [-.00671788] * 2], atol=1e-7)


def test_worked_example_value():
  assert math.isclose(value_and_slope(toy.batch(**EXAMPLE), LOGP)[0], .751153, abs_tol=2e-6)


def test_without_a_pair_there_is_nothing_to_learn():
  for task in ([0, 10] * 3, [0, 0] * 3):
    value, slope = value_and_slope(toy.batch(**EXAMPLE | dict(task=task)), LOGP)
    assert value == 0 and not slope.any()


@functools.cache
def forest(grown, seed, pack):
  f = getattr(forests, grown)(seed)
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 5 + seed) % 3 for i in range(len(f.parent))], n_obs=1)
  rng = np.random.default_rng(seed)
  draw = lambda: -rng.exponential(size=batch.tokens.node.shape)
  batch = forests.with_stream(batch, ref_logp=draw(), before=draw())
  tokens = type(batch.tokens)(**{**vars(batch.tokens), 'logp': batch.tokens.stream['before']})
  return f, type(batch)(nodes=batch.nodes, tokens=tokens, prompt=batch.prompt), draw()


@pytest.mark.parametrize('grown, seed, pack', [('chains', 0, 1), ('chains', 2, 2), ('trees', 0, 1), ('trees', 2, 2)])
@pytest.mark.parametrize('mode', [dict(), dict(ref='ref_logp', beta=.5), dict(channel='format', beta=1.)], ids=str)
def test_twin(grown, seed, pack, mode):
  f, batch, logp = forest(grown, seed, pack)
  (value, slope), (want, slopes) = value_and_slope(batch, logp, **mode), twin(f, batch, logp, **mode)
  np.testing.assert_allclose(slope, slopes, rtol=1e-4, atol=1e-7)
  assert np.abs(slopes).max() > 0 and math.isclose(value, want, rel_tol=2e-5)
