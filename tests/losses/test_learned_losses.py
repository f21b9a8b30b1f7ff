"""Losses of learned credit: a progress estimator, and trajectory DPO. Value and gradient by hand and by differences."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from rlx import along, average, testing, toy, tree
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

def test_progress_needs_a_verdict_and_the_last_step():
  """Of four episodes the second has no verdict, the third failed, the fourth is not in the minibatch."""
  b = toy.batch([-1] * 4, task=[1, 1, 1, 5], end=[1, 1, 3, 1], judged=dict(task=[True, False, True, True]), n_tokens=2)
  b = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, mask=b.tokens.mask & (b.tokens.node < 3)))
  c = jnp.full(b.tokens.node.shape, .5)
  value, slope = jax.value_and_grad(lambda c: objective(progress(), out_of(c, progress=c), b, average.seq_mean))(c)
  close(value, .25)
  close(slope, [[0, -1], [0, 0], [0, 0], [0, 0]])


def test_progress_is_blind_to_packing_and_shares_steps():
  """A tree: the same as differences of the plain sum over its episodes, whatever the rows."""
  b = testing.batch(1)
  c = jnp.asarray(np.random.default_rng(0).normal(size=b.tokens.node.shape), jnp.float32)
  run = jax.jit(jax.value_and_grad(lambda c, b: objective(progress(), out_of(c, progress=c), b, average.seq_mean)))
  (want, slope), ret = run(c, b), np.asarray(tree.returns(b.nodes, 'task')[0])

  def loop(c):
    last = np.where(np.asarray(along.last_token(b)), np.asarray(c, float), 0)
    of = np.bincount(np.asarray(b.tokens.node).clip(0).ravel(), last.ravel(), len(ret))
    sums = np.asarray(tree.fold_down(jnp.asarray(of, jnp.float32), b.nodes.parent), float)
    return np.mean((sums - ret)[np.asarray(tree.ended(b.nodes))] ** 2)
  close(want, loop(c), 1e-5)
  for r, t in np.argwhere(np.asarray(along.last_token(b)))[::3]:
    close(slope[r, t], (loop(c.at[r, t].add(.5)) - loop(c.at[r, t].add(-.5))), 1e-5)      # a parabola
  for pack in (1, 3):
    other, source = testing.lay_out(b, pack=pack)
    got, moved = run(jnp.where(source >= 0, c.ravel()[source], 0), other)
    mask = np.asarray(other.tokens.mask)
    close(got, want, 1e-5)
    close(np.asarray(moved)[mask], np.asarray(slope).ravel()[source[mask]], 1e-5)


# ---- trajectory_dpo ----------------------------------------------------------------------------------------------------

def test_trajectory_dpo_sheet():
  """Three episodes of two steps, q = [2, -1 | 4, 0 | -3, 1], + - +, beta .05: Q = .025, .1, -.05; log(1 + e^.075), log(1 + e^.15)."""
  b = toy.batch([-1, 0, -1, 2, -1, 4], task=[0, 10, 0, 0, 0, 10])
  q = jnp.asarray([[2., -1], [4, 0], [-3, 1]])
  value, slope = jax.value_and_grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.seq_mean))(q)
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
  b = testing.batch(1)
  q = jnp.asarray(np.random.default_rng(0).normal(size=b.tokens.node.shape), jnp.float32)
  value, slope = jax.jit(jax.value_and_grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.seq_mean)))(q)
  close(value, plain(b, q))
  assert np.abs(slope).max() > 1e-3 and not np.asarray(slope)[~np.asarray(b.tokens.mask)].any()
  for r, c in np.argwhere(np.asarray(b.tokens.mask))[::4]:
    close(slope[r, c], (plain(b, q.at[r, c].add(.1)) - plain(b, q.at[r, c].add(-.1))) / .2, 2e-6)


def test_trajectory_dpo_of_some_prompts():
  """A minibatch without the rows of a prompt: only the others make pairs."""
  b = toy.batch([-1] * 4, group=[0, 0, 1, 1], task=[1, 0, 1, 0], stream=dict(frozen=[.5] * 4))
  q = jnp.asarray([[1.], [2.], [5.], [7.]])
  part = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, mask=b.tokens.mask & jnp.asarray([[True], [True], [False], [False]])))
  close(objective(trajectory_dpo(), out_of(q), part, average.seq_mean), np.log1p(np.exp(.05)))
  close(objective(trajectory_dpo(), out_of(q), b, average.seq_mean), (np.log1p(np.exp(.05)) + np.log1p(np.exp(.1))) / 2)
  close(objective(trajectory_dpo(ref='frozen', beta=1., above=2.), out_of(q), b, average.seq_mean), 0)      # no success, no pair


def test_no_pair_no_gradient():
  b = toy.batch([-1] * 2, task=[1, 1])
  slope = jax.grad(lambda q: objective(trajectory_dpo(), out_of(q), b, average.seq_mean))(jnp.ones((2, 1)))
  assert not np.asarray(slope).any()
