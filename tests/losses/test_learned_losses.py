"""Losses of learned credit: a progress estimator, and trajectory DPO. Value and gradient by hand and by differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlx import average, testing, toy
from rlx.losses.progress import progress
from rlx.losses.trajectory_dpo import trajectory_dpo
from rlx.types import Out


def out_of(logp, **value):
  return Out(logp=logp, entropy=jnp.zeros_like(logp), value=value, extra={})


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def objective(loss, out, b, of):
  _, stats = loss.prepare((), jax.lax.stop_gradient(out), b, None, None)
  num, den = of(b, b.tokens.mask)
  return jnp.sum(loss.term(out, b, None, stats) * num) / jnp.sum(den)


# ---- progress ----------------------------------------------------------------------------------------------------------

def test_progress_of_two_paths_that_share_their_steps():
  """Contributions .2 and .5, then .8 and 1.1 at last tokens; returns 1 and 0: misses .5 and 1.8."""
  b = toy.batch([-1, 0, 1, 1], task=[0, 0, 1, 0], n_tokens=2, n_obs=1)
  c = jnp.tile(jnp.arange(9, dtype=jnp.float32) / 10, (2, 1)).at[1, 8].set(1.1)
  term = progress().term(out_of(c, progress=c), b, None, ())
  mask = np.asarray(b.tokens.mask)
  close(term, np.where(mask, [[.25], [3.24]], 0))
  slope = jax.grad(lambda c: objective(progress(), out_of(c, progress=c), b, average.seq_mean))(c)
  want = np.zeros((2, 9))
  want[0, [2, 5, 8]], want[1, [2, 5, 8]] = .5, 1.8      # d/dc of the mean of both squares; a shared step learns from both
  close(slope, want)


def test_progress_needs_a_verdict():
  """The second of two episodes has none, the third failed: only the first is fitted."""
  b = toy.batch([-1, -1, -1], task=[1, 1, 1], end=[1, 1, 3], judged=dict(task=[True, False, True]), n_tokens=2)
  c = jnp.zeros(b.tokens.node.shape)
  close(progress().term(out_of(c, progress=c), b, None, ()), [[1, 1], [0, 0], [0, 0]])
  assert progress(head='c').heads == ('c',)


def test_progress_is_blind_to_packing():
  b = testing.batch(1)
  c = jnp.asarray(np.random.default_rng(0).normal(size=b.tokens.node.shape), jnp.float32)
  want = np.asarray(progress().term(out_of(c, progress=c), b, None, ()))
  for pack in (1, 3):
    other, source = testing.lay_out(b, pack=pack)
    moved = jnp.where(source >= 0, c.ravel()[source], 0)
    got, mask = np.asarray(progress().term(out_of(moved, progress=moved), other, None, ())), np.asarray(other.tokens.mask)
    close(got[mask], want.ravel()[source[mask]], 1e-5)


# ---- trajectory_dpo ----------------------------------------------------------------------------------------------------

def test_trajectory_dpo_sheet():
  """Three episodes of two steps, q = [2, -1 | 4, 0 | -3, 1], + - +, beta .05: Q = .025, .1, -.05; log(1 + e^.075), log(1 + e^.15)."""
  b = toy.batch([-1, 0, -1, 2, -1, 4], task=[0, 10, 0, 0, 0, 10])
  q = jnp.asarray([[2., -1], [4, 0], [-3, 1]])
  value, slope = jax.value_and_grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.token_mean))(q)
  close(value, .7512, 5e-5)
  first, third = -1 / (1 + np.exp(-.075)) / 2 * .025, -1 / (1 + np.exp(-.15)) / 2 * .025
  close(slope, [[first] * 2, [-first - third] * 2, [third] * 2])


def plain(b, q, beta=.05):
  """The loss by loops."""
  n, pairs = jax.tree.map(np.asarray, b.nodes), []
  step = np.zeros(len(n.parent))
  np.add.at(step, np.asarray(b.tokens.node)[np.asarray(b.tokens.mask)], np.asarray(q - b.tokens.logp, float)[np.asarray(b.tokens.mask)])
  found = []
  for i in np.flatnonzero(n.valid & np.isin(n.end, (1, 2))):
    path = [i]
    while n.parent[path[0]] >= 0:
      path.insert(0, n.parent[path[0]])
    found.append((n.group[i], n.reward['task'][path].sum() > 0, beta * step[path].mean()))
  for g, won, a in found:
    pairs += [np.log1p(np.exp(other - a)) for h, lost, other in found if won and not lost and g == h]
  return np.mean(pairs) if pairs else 0.


def test_trajectory_dpo_against_loops_and_differences():
  b = testing.batch(3)
  q = jnp.asarray(np.random.default_rng(0).normal(size=b.tokens.node.shape), jnp.float32)
  value, slope = jax.jit(jax.value_and_grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.token_mean)))(q)
  close(value, plain(b, q))
  assert np.abs(slope).max() > 1e-3 and not np.asarray(slope)[~np.asarray(b.tokens.mask)].any()
  for r, c in np.argwhere(np.asarray(b.tokens.mask))[::4]:
    close(slope[r, c], (plain(b, q.at[r, c].add(.1)) - plain(b, q.at[r, c].add(-.1))) / .2, 2e-6)


def test_trajectory_dpo_of_some_prompts():
  """A minibatch without the rows of a prompt: only the others make pairs."""
  b = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, 1, 0], stream=dict(frozen=[.5] * 4))
  q = jnp.asarray([[1.], [2.], [5.], [7.]])
  part = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, mask=b.tokens.mask & jnp.asarray([[True], [True], [False], [False]])))
  close(objective(trajectory_dpo(), out_of(q), part, average.token_mean), np.log1p(np.exp(.05)))
  close(objective(trajectory_dpo(), out_of(q), b, average.token_mean), (np.log1p(np.exp(.05)) + np.log1p(np.exp(.1))) / 2)
  close(objective(trajectory_dpo(ref='frozen', beta=1., above=2.), out_of(q), b, average.token_mean), 0)      # no success, no pair


def test_no_pair_no_gradient():
  b = toy.batch([-1] * 2, task=[1, 1])
  slope = jax.grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.token_mean))(jnp.ones((2, 1)))
  assert not np.asarray(slope).any()
