"""Forests made inside jit: what they hold, against the environment played step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import masked, tree
from rlx.envs.probe_tasks import TASKS, device
from rlx.grow import rollout_jax

PROMPTS = jnp.array([1, 3], jnp.int32)


@functools.cache
def grown(task='revisit', fork=0, greedy=False, seed=0):
  env = device(task)
  params = jax.tree.map(lambda x: .7 * jax.random.normal(jax.random.key(3), x.shape), rollout_jax.init(env))
  grow = jax.jit(functools.partial(rollout_jax.rollout, env, width=4, fork=fork, greedy=greedy))
  return env, params, jax.tree.map(np.asarray, grow(params, PROMPTS, jax.random.key(seed)))


@pytest.mark.parametrize('task, fork', [('revisit', 0), ('revisit', 3), ('plan_execute', 3), ('delayed_reward', 0)])
def test_the_tables_are_in_order(task, fork):
  env, _, b = grown(task, fork)
  n, t, live = b.nodes, b.tokens, np.flatnonzero(b.nodes.valid)
  assert n.parent.shape == (8 * env.turns,) and t.ids.shape == (8, 3 * env.turns)
  assert (n.parent[live] < live).all() and n.valid[n.parent[live][n.parent[live] >= 0]].all()
  assert (np.diff(n.group[live]) >= 0).all() and (n.group[live][n.parent[live] >= 0] == n.group[n.parent[live]][n.parent[live] >= 0]).all()
  assert (n.parent[~n.valid] == -1).all() and not n.end[~n.valid].any() and not any(x[~n.valid].any() for x in n.reward.values())
  ends = np.bincount(n.group[live][n.end[live] == 1], minlength=2)
  assert (ends == 4).all(), 'every path ends'
  assert (np.bincount(t.node[t.mask], minlength=len(n.parent)) == 3 * n.valid).all(), 'each step is trained once'
  assert (t.sampled | (t.node < 0)).all() and not t.logp[~t.sampled].any()
  # a row is the path from a first step to an end
  for row, sampled in zip(t.node, t.sampled):
    steps = list(dict.fromkeys(row[sampled]))
    assert n.parent[steps[0]] == -1 and n.end[steps[-1]] == 1 and (n.parent[steps[1:]] == steps[:-1]).all()


def test_twins_are_one_path_until_the_fork():
  _, _, b = grown('plan_execute', 3)
  t = b.tokens
  for k in range(0, 8, 2):
    np.testing.assert_array_equal(t.node[k, :9], t.node[k + 1, :9])
    np.testing.assert_array_equal(t.ids[k, :9], t.ids[k + 1, :9])
    assert t.mask[k, :9].all() and not t.mask[k + 1, :9].any() and t.sampled[k + 1, :9].all()
    assert (t.node[k, 9:] != t.node[k + 1, 9:])[t.sampled[k, 9:] & t.sampled[k + 1, 9:]].all()
  assert any((t.ids[k, 9:] != t.ids[k + 1, 9:]).any() for k in range(0, 8, 2)) and (b.nodes.valid.sum() == 8 * 9 - 4 * 3)


def test_what_was_played_is_what_the_environment_says():
  env, params, b = grown('plan_execute')
  n, t = b.nodes, b.tokens
  for row in range(8):
    s = env.reset(PROMPTS[row // 4], jax.random.key(0))
    for turn in range(9):
      node, ids, seen = row * env.turns + turn, t.ids[row, 3 * turn:3 * turn + 3], int(env.observe(s))
      said = [np.asarray(p) for p in rollout_jax.speak(params, rollout_jax.features(env)[seen])]
      np.testing.assert_allclose(t.logp[row, 3 * turn:3 * turn + 3], [p[i] for p, i in zip(said, ids)], atol=1e-5)
      np.testing.assert_allclose(t.stream['entropy'][row, 3 * turn:3 * turn + 3], [-(np.exp(p) * p).sum() for p in said], atol=1e-5)
      assert [n.label[k][node] for k in ('state', 'action', 'switch', 'turn')] == [seen, ids[2], ids[0], turn]
      s, got = env.step(s, jnp.asarray(ids), jax.random.key(1))
      assert n.end[node] == int(got.end) and n.reward['task'][node] == pytest.approx(float(got.reward['task']))


def test_an_evaluation_at_the_same_parameters_repeats_what_was_drawn():
  env, params, b = grown('revisit', 3)
  logp, entropy, value = rollout_jax.evaluate(env, params, b)
  np.testing.assert_allclose(logp, b.tokens.logp, atol=1e-5)
  np.testing.assert_allclose(entropy, b.tokens.stream['entropy'], atol=1e-5)
  np.testing.assert_allclose(value['low'], b.tokens.stream['value/low'], atol=1e-5)


def test_the_answer_is_probed_behind_every_step_that_goes_on():
  """delayed_reward: the answer is the cue; p of it where the next observation is seen, and at the start for the prompt."""
  env, params, b = grown('delayed_reward')
  n, x = b.nodes, rollout_jax.features(env)
  for node in np.flatnonzero(n.valid):
    cue, turn = int(PROMPTS[n.group[node]]), n.label['turn'][node]
    want = 0. if n.end[node] else float(rollout_jax.speak(params, x[4 + turn])[2][cue])
    assert n.value['p_answer'][node] == pytest.approx(want, abs=1e-5)
  for g, cue in enumerate(PROMPTS.tolist()):
    assert b.prompt['p_answer'][g] == pytest.approx(float(rollout_jax.speak(params, x[cue])[2][cue]), abs=1e-5)


def test_the_last_path_may_be_greedy():
  env, params, b = grown('revisit', greedy=True)
  t, x = b.tokens, rollout_jax.features(env)
  drawn = b.nodes.label['drawn'][b.nodes.valid]
  assert 0 < (drawn == 0).sum() < drawn.size
  for row in (3, 7):
    where = np.flatnonzero(t.sampled[row])
    assert (b.nodes.label['drawn'][t.node[row, where]] == 0).all()
    for at in where:
      assert t.ids[row, at] == int(np.argmax(rollout_jax.speak(params, x[int(t.stream['seen'][row, at])])[at % 3]))


@pytest.mark.parametrize('task', TASKS)
def test_returns_are_the_tasks(task):
  _, _, b = grown(task)
  ret, on = tree.returns(b.nodes, 'task')
  assert on.sum() == 8 and np.isfinite(np.asarray(ret)).all()
  assert np.asarray(masked.node_sum(jnp.ones_like(b.tokens.logp), b))[b.nodes.valid].min() == 3


def test_errors():
  env = device('fork')
  for kw in (dict(width=3, fork=2), dict(width=4, fork=24), dict(width=4, fork=2, greedy=True)):
    with pytest.raises(ValueError, match='fork needs an even width'):
      rollout_jax.rollout(env, rollout_jax.init(env), PROMPTS, jax.random.key(0), **kw)
