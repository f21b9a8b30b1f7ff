"""Tree primitives against plain loops, and the design's worked example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import groups, toy, tree

F32, I32 = (lambda x: jnp.asarray(x, jnp.float32)), (lambda x: jnp.asarray(x, jnp.int32))


def close(got, want, tol=1e-5):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def random_parents(seed, n=60):
  rng = np.random.default_rng(seed)
  return rng, np.array([-1] + [int(rng.integers(-1, i)) for i in range(1, n)])


def test_worked_example():
  """Two prompts: a tree of three paths and a rollout of two steps; padding from 8 on."""
  b = toy.batch(parent=[-1, 0, 1, 1, 0, 4, -1, 6], group=[0] * 6 + [1] * 2, task=[0, 0, 1, 0, 0, 1, 0, 1],
                label=dict(state=list('abdcbcae')))
  n = b.nodes
  assert n.end.tolist() == [0, 0, 1, 1, 0, 1, 0, 1]
  ret, on = tree.returns(n, 'task')
  assert np.flatnonzero(on).tolist() == [2, 3, 5, 7]
  assert np.asarray(ret)[np.asarray(on)].tolist() == [1, 0, 1, 1]
  v = tree.leaf_mean(ret, on, n.parent)
  close(v, [2 / 3, .5, 1, 0, 1, 1, 1, 1])
  root = groups.group_stats(ret, n.group, on).mean
  close(tree.above(v, n.parent, root), [2 / 3, 2 / 3, .5, .5, 2 / 3, 1, 1, 1])
  same = groups.dense_ids(n.group, n.label['state'])
  assert same.tolist() == [0, 1, 2, 3, 1, 3, 6, 7]


def test_folds_against_loops():
  rng, parent = random_parents(0)
  n = len(parent)
  x, decay = rng.normal(size=n), rng.uniform(.2, 1.2, size=n)
  down, up = x.copy(), x.copy()
  for i in range(n):
    down[i] += decay[i] * down[parent[i]] if parent[i] >= 0 else 0
  for i in reversed(range(n)):
    if parent[i] >= 0:
      up[parent[i]] += decay[i] * up[i]
  close(tree.fold_down(F32(x), I32(parent), F32(decay)), down)
  close(tree.fold_up(F32(x), I32(parent), F32(decay)), up, 1e-4)
  under = np.zeros(n)
  for i in range(n):
    if parent[i] >= 0:
      under[parent[i]] += x[i]
  close(tree.below(F32(x), I32(parent)), under)


def test_folds_do_not_depend_on_the_order_of_steps():
  rng, parent = random_parents(1)
  order = rng.permutation(len(parent))
  new = np.append(np.argsort(order), -1)
  x = rng.normal(size=len(parent))
  for fold in (tree.fold_down, tree.fold_up):
    close(fold(F32(x[order]), I32(new[parent[order]]), .9), np.asarray(fold(F32(x), I32(parent), .9))[order], 1e-4)


def test_folds_follow_a_deep_path():
  """1,000 steps in a row: only rounding, no limit on depth."""
  parent = I32(np.arange(-1, 999))
  close(tree.fold_down(jnp.ones(1000), parent), np.arange(1, 1001), 0)
  close(tree.fold_up(jnp.ones(1000), parent)[::-1], np.arange(1, 1001), 0)
  want = (1 - .95 ** np.arange(1000, 0, -1)) / .05
  close(tree.fold_up(jnp.ones(1000), parent, .95), want, 1e-3)


def test_share_is_the_mean_over_next_steps():
  parent = I32([-1, 0, 0, 0, 1, 1])
  where = jnp.asarray([True, True, False, True, True, True])
  close(tree.share(parent, where), [1, .5, 0, .5, .5, .5])
  x = F32([9, 1, 100, 3, 5, 7])
  close(tree.below(x * tree.share(parent, where), parent), [2, 6, 0, 0, 0, 0])


def test_above_of_any_shape():
  x = F32([5, 6])
  close(tree.above(x, I32([[0, -1], [1, 1]]), 9.), [[5, 9], [6, 6]])
  close(tree.above(x, I32([-1, 0]), F32([7, 8])), [7, 5])
  assert tree.above(jnp.asarray([True, False]), I32([-1, 0]), False).dtype == bool


def test_what_counts_as_an_episode():
  """Done and cut off count; going on, abandoned and failed do not; a step is credited by what ends at or below it."""
  b = toy.batch(parent=[-1, 0, 0, 0, -1, -1], end=[0, 1, 2, 3, 0, 3], task=1)
  on = tree.ended(b.nodes)
  assert on.tolist() == [False, True, True, False, False, False]
  assert tree.through(on, b.nodes.parent).tolist() == [True, True, True, False, False, False]


def test_a_missing_verdict_leaves_the_mean():
  """Step 0 is shared by a judged and an unjudged episode: its value is the judged one's."""
  b = toy.batch(parent=[-1, 0, 0, -1], task=[0, 1, 0, 0], judged=dict(task=[1, 1, 0, 1]))
  assert tree.judged(b.nodes, 'task').tolist() == [True, True, False, True]
  ret, on = tree.returns(b.nodes, 'task')
  assert on.tolist() == [False, True, False, True]
  close(tree.leaf_mean(ret, on, b.nodes.parent), [1, 1, 0, 0])
  early = toy.batch(parent=[-1, 0, 1], task=1, judged=dict(task=[0, 1, 1]))   # a missing verdict above counts too
  assert not tree.returns(early.nodes, 'task')[1].any()


def test_unknown_channel_says_which_exist():
  with pytest.raises(KeyError, match=r"no reward channel 'tsak'; this batch has \['format', 'task'\]"):
    tree.returns(toy.batch(parent=[-1], task=1, format=0).nodes, 'tsak')


def test_leaf_mean_against_paths():
  rng, parent = random_parents(2, 40)
  x, on = rng.normal(size=40), rng.uniform(size=40) < .4
  want = np.zeros(40)
  below = [[] for _ in range(40)]
  for i in np.flatnonzero(on):
    j = i
    while j >= 0:
      below[j].append(x[i])
      j = parent[j]
  for i in range(40):
    want[i] = np.mean(below[i]) if below[i] else 0
  close(tree.leaf_mean(F32(x), jnp.asarray(on), I32(parent)), want)
  assert tree.through(jnp.asarray(on), I32(parent)).tolist() == [bool(b) for b in below]


def test_folds_are_linear():
  """Half of x folds to half of the fold: gradients and schedules may pass through."""
  _, parent = random_parents(3, 20)
  x = F32(np.random.default_rng(3).normal(size=20))
  got = jax.jvp(lambda x: tree.fold_up(x, I32(parent), .9), (x,), (x,))[1]
  close(got, tree.fold_up(x, I32(parent), .9))
