"""StepORLM's weighted DPO (arXiv:2509.22558, from a digest), value and gradient, by hand and against loops."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, toy
from rlx.learn.objective import credited
from rlx.losses.step_orlm import step_orlm
from rlx.types import Out
from tests.estimators import forests


@functools.cache
def jitted(mode):
  def total(logp, beta, batch):
    loss = step_orlm(beta=beta, **dict(mode))
    out = Out(logp=logp, entropy=jnp.zeros_like(logp), value={}, extra={})
    _, stats = loss.prepare(loss.init(), jax.lax.stop_gradient(out), batch, jnp.zeros_like(logp), jax.random.key(0))
    num, den = average.seq_mean(batch, batch.tokens.mask)
    return jnp.sum(loss.term(out, batch, jnp.zeros_like(logp), stats) * num) / jnp.sum(den)
  return jax.jit(jax.value_and_grad(total))


def value_and_slope(batch, logp, beta=.1, **mode):
  value, slope = jitted(tuple(mode.items()))(jnp.asarray(logp, jnp.float32), jnp.float32(beta), batch)
  return float(value), np.asarray(slope)


def pair(task, prm, logp):
  """Two rollouts of ten steps each with the given outcomes and numbers of correct steps, the logp on their first tokens."""
  b = toy.batch([*range(-1, 9), -1, *range(10, 19)], task=[0] * 9 + task[:1] + [0] * 9 + task[1:],
                prm=[1] * prm[0] + [0] * (10 - prm[0]) + [1] * prm[1] + [0] * (10 - prm[1]))
  at = np.zeros((2, 10))
  at[:, 0] = logp
  return b, at


@pytest.mark.parametrize('task, prm, logp, want', [
    ([1, 1], [9, 6], [-2, -5], .166307),         # w .3, log(1 + exp(-.3)) = .554355
    ([0, 0], [6, 2], [0, -5], .189631),          # w .4, log(1 + exp(-.5)) = .474077
    ([1, 0], [0, 9], [-2, -5], .554355),         # the solver's verdict goes first, w 1
    ([0, 1], [9, 0], [-2, -5], .854355),         # and the other way round
    ([1, 1], [5, 5], [-2, -5], 0.)])
def test_worked_examples(task, prm, logp, want):
  b, at = pair(task, prm, logp)
  value, slope = value_and_slope(b, at)
  assert math.isclose(value, want, abs_tol=2e-6)
  assert (want == 0) == (not slope.any())


def test_worked_gradient():
  """w .3, sigmoid(-.3) = .425557, beta .1: .012767 on every token of either, up on the better one."""
  b, at = pair([1, 1], [9, 6], [-2, -5])
  np.testing.assert_allclose(value_and_slope(b, at)[1], [[-.01276671] * 10, [.01276671] * 10], atol=1e-7)


def test_a_reference_moves_the_gap():
  b, at = pair([1, 0], [0, 0], [-2, -5])
  b = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, logp=jnp.asarray(at / 2, jnp.float32), stream=dict(
      frozen=jnp.asarray(at * 2, jnp.float32))))
  for ref, gap in (('', .3), ('logp', .15), ('frozen', -.3)):
    assert math.isclose(value_and_slope(b, at, ref=ref)[0], math.log1p(math.exp(-gap)), abs_tol=2e-6)


def test_thresholds():
  b, at = pair([.6, .4], [1, 0], [-2, -5])
  assert math.isclose(value_and_slope(b, at)[0], .1 * .554355, abs_tol=2e-6)                   # both right
  assert math.isclose(value_and_slope(b, at, above=.5)[0], .554355, abs_tol=2e-6)              # one right
  assert value_and_slope(b, at, correct=1.)[0] == 0                                            # no step is correct


def test_a_minibatch_without_a_prompt():
  b = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, 1, 0], prm=0)
  part = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, mask=b.tokens.mask & (b.tokens.node < 2)))
  q = [[1.], [2.], [5.], [7.]]
  assert math.isclose(value_and_slope(part, q)[0], math.log1p(math.exp(.1)), abs_tol=1e-6)
  assert math.isclose(value_and_slope(b, q)[0], (math.log1p(math.exp(.1)) + math.log1p(math.exp(.2))) / 2, abs_tol=1e-6)


def twin(f, batch, logp, prm, judged, *, beta, above, ref=''):
  """By loops over all pairs: (mean of w log(1 + exp(-gap)), its derivative by each token)."""
  before = np.zeros(logp.shape) if not ref else np.asarray(batch.tokens.stream[ref])
  tokens = {}
  for sequence in forests.sequences(batch):
    for r, t, step, trained in sequence:
      if trained:
        tokens.setdefault(step, []).append((r, t))
  score = lambda steps: sum(logp[at] - before[at] for s in steps for at in tokens.get(s, []))
  found = []
  for group in forests.episodes(f, 'task').values():
    for i, (a, ra) in enumerate(group):
      for b, rb in group[i + 1:]:
        if (ra > above) != (rb > above):
          found.append((a, b, 1.) if ra > above else (b, a, 1.))
        elif all(judged[s] for s in a + b):
          gap = sum(prm[s] > .5 for s in a) / len(a) - sum(prm[s] > .5 for s in b) / len(b)
          if gap:
            found.append((a, b, gap) if gap > 0 else (b, a, -gap))
  value, slope = 0., np.zeros(logp.shape)
  for good, bad, w in found:
    wrong = 1 / (1 + math.exp(beta * (score(good) - score(bad))))
    value -= w * math.log(1 - wrong) / len(found)
    for steps, sign in ((good, -1), (bad, 1)):
      for at in (at for s in steps for at in tokens.get(s, [])):
        slope[at] += sign * w * wrong * beta / len(found)
  return value, slope


@pytest.mark.parametrize('grown, seed, pack', [('chains', 0, 1), ('trees', 1, 2)])
@pytest.mark.parametrize('mode', [dict(beta=.3, above=.5), dict(beta=.3, above=.5, ref='frozen')], ids=str)
def test_twin(grown, seed, pack, mode):
  f = getattr(forests, grown)(seed)
  rng, size = np.random.default_rng(seed), len(f.parent)
  prm, judged = rng.choice([0., 1.], size).tolist(), (rng.random(size) < .9).tolist()
  f.reward['prm'], f.judged['prm'] = prm, judged
  batch = forests.padded(f.batch(toy, pack=pack, n_tokens=[1 + i % 2 for i in range(size)], n_obs=1))
  logp, frozen = (-rng.exponential(size=batch.tokens.node.shape) for _ in range(2))
  batch = forests.with_stream(batch, frozen=frozen)
  batch = dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, mask=credited(batch, batch.tokens.mask)))
  value, slope = value_and_slope(batch, logp, **mode)
  want, slopes = twin(f, batch, logp, prm, judged, **mode)
  assert math.isclose(value, want, rel_tol=2e-5) and np.abs(slopes).max() > 1e-4
  np.testing.assert_allclose(slope, slopes, rtol=1e-4, atol=1e-7)
