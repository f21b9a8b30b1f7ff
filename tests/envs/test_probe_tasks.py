"""The probe tasks: each by hand, as text and as arrays."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.envs import probe_tasks as probes
from rlx.envs.probe_tasks import TASKS, device, probe_tasks
from rlx.types import Action


def say(action, switch=0, plan=0):
  return Action(f'<switch>{switch}</switch><plan>{plan}</plan><action>{action}</action>')


def play(env, task, actions, seed=0):
  """(observations, steps) of an episode as text."""
  state, obs = env.reset(task, seed)
  seen, steps = [obs.text], []
  for a in actions:
    state, step = env.step(state, a)
    steps.append(step)
    seen.append(step.obs)
  return seen, steps


def test_delayed_reward_by_hand():
  env = probe_tasks(task='delayed_reward')
  task = env.tasks('train')[2]
  seen, steps = play(env, task, [say(2)] + [say(0)] * 7)
  assert seen == ['o2', 'o4', 'o5', 'o6', 'o7', 'o8', 'o9', 'o10', ''] and [s.end for s in steps] == [0] * 7 + [1]
  assert [s.reward['task'] for s in steps] == [0] * 7 + [1]
  assert [s.reward['task'] for s in play(env, task, [say(1)] + [say(2)] * 7)[1]][-1] == 0


def test_revisit_by_hand():
  """From the middle (3) to the right end (6) where the cue is odd; a step back, a jump to the middle."""
  env = probe_tasks(task='revisit')
  seen, steps = play(env, env.tasks('train')[1], [say(1), say(0), say(2), say(1), say(3), say(1), say(1), say(1)])
  assert seen == [f'o{7 + p}' for p in (3, 4, 3, 3, 4, 3, 4, 5)] + [''] and steps[-1].end == 1 and steps[-1].reward['task'] == 1
  _, steps = play(env, env.tasks('train')[1], [say(2)] * 12)
  assert [s.end for s in steps] == [0] * 11 + [1] and steps[-1].reward['task'] == 0


def test_plan_execute_by_hand():
  """Prompt 1: cues 1, 2, 3; an action is right if it is the cue plus the turn of its segment. Only a plan that is taken up is shown later."""
  env = probe_tasks(task='plan_execute')
  plays = [say(1, 1, 1), say(2), say(3), say(2, 1, 2), say(3), say(0), say(3, 0, 3), say(0), say(0)]
  seen, steps = play(env, env.tasks('train')[1], plays)
  assert seen == ['o1', 'o5', 'o10', 'o2', 'o6', 'o11', 'o3', 'o6', 'o11', '']
  assert steps[-1].reward['task'] == pytest.approx(8 / 9) and [s.label['switch'] for s in steps] == [1, 0, 0, 1, 0, 0, 0, 0, 0]
  idle = play(env, env.tasks('train')[1], [say(1, 1, 1), say(2, 1, 3)])[1]
  assert [s.reward['format'] for s in idle] == [0, pytest.approx(-.1)], 'a plan taken up in the middle of a segment'


def test_fork_by_hand():
  env = probe_tasks(task='fork')
  right = [say(0)] * 3 + [say(3)] + [say(0)] * 4
  seen, steps = play(env, env.tasks('train')[3], right)
  assert seen == ['o0', 'o1', 'o2', 'o6', 'o11', 'o12', 'o13', 'o14', ''] and steps[-1].reward['task'] == 1
  seen, steps = play(env, env.tasks('train')[3], [say(3)] * 3 + [say(0)] + [say(3)] * 4)
  assert seen[4:8] == ['o7', 'o8', 'o9', 'o10'] and steps[-1].reward['task'] == 0


def test_noisy_long_by_hand():
  """Two episodes with the same actions have the same noise, others have others: its deviation is .25."""
  env, found = probe_tasks(task='noisy_long'), []
  for i in range(40):
    seen, steps = play(env, env.tasks('train')[i], [say(i % 4)] + [say(0)] * 23, seed=i)
    right = sum((3 * int(o[1:]) + 1) % 4 == s.label['action'] for o, s in zip(seen, steps))
    found.append(steps[-1].reward['task'] - right / 24)
  assert .17 < np.std(found) < .34 and abs(np.mean(found)) < .12
  assert play(env, env.tasks('train')[0], [say(0)] * 24)[1][-1] == play(env, env.tasks('train')[0], [say(0)] * 24)[1][-1]


@functools.cache
def players():
  """(task, skill of the speaker, keys) -> return on 'task', verdicts, turns; one program for all tasks."""
  def one(task, prompt, expert, key):
    env = device(task)
    def turn(carry, k):
      s, alive = carry
      drawn = jnp.stack([jax.random.randint(jax.random.fold_in(k, u), (), 0, n) for u, n in enumerate(env.actions)])
      after, got = env.step(s, jnp.where(expert, env.right(s), drawn), k)
      return (after, alive & (got.end == 0)), jax.tree.map(lambda x: jnp.where(alive, x, jnp.zeros_like(x)), (got.reward, jnp.int32(1), env.observe(s)))
    (_, alive), (reward, turns, seen) = jax.lax.scan(turn, (env.reset(prompt, key), jnp.bool_(True)), jax.random.split(key, env.turns))
    return reward['task'].sum(), reward['turn'].sum(), turns.sum(), seen.max(), alive
  return jax.jit(jax.vmap(one, (None, 0, None, 0)))


@pytest.mark.parametrize('task', TASKS)
def test_an_expert_always_succeeds_and_chance_rarely(task):
  n = 2000
  i, prompts, keys = jnp.int32(TASKS.index(task)), jnp.arange(n, dtype=jnp.int32) % 4, jax.random.split(jax.random.key(1), n)
  won, verdict, turns, seen, alive = map(np.asarray, players()(i, prompts, jnp.bool_(True), keys))
  assert abs(float(won.mean()) - 1) < .02 and abs(float((verdict.sum() / turns.sum())) - .9) < .02, 'a judge is wrong one time in ten'
  won, _, turns, seen, alive = map(np.asarray, players()(i, prompts, jnp.bool_(False), keys))
  assert .1 < float(won.mean()) < .3 and int(seen.max()) < probes.OBSERVATIONS and not alive.any()
  assert int(turns.max()) == probes.TURNS[TASKS.index(task)]
  assert players()._cache_size() == 1, 'one program for all tasks'


@pytest.mark.parametrize('task', TASKS)
def test_the_text_says_what_the_arrays_say(task):
  env, arrays = probe_tasks(task=task, skill=.6), device(task)
  for i in range(3):
    one = env.tasks('train')[i]
    speaker, (state, obs), spot = env.expert(one, i), env.reset(one, i), arrays.reset(jnp.int32(i), jax.random.key(0))
    for text in speaker:
      assert obs.text == f'o{int(arrays.observe(spot))}' and obs.label == {'state': int(arrays.observe(spot))}
      symbols = [int(c) for c in text if c.isdigit()]
      spot, want = arrays.step(spot, jnp.asarray(symbols, jnp.int32), jax.random.key(5))
      state, got = env.step(pickle.loads(pickle.dumps(state)), Action(text))
      assert got.end == int(want.end) and got.label == {k: int(v) for k, v in want.label.items() if k != 'state'}
      assert set(got.reward) == set(probes.CHANNELS)
      if task != 'noisy_long':
        assert got.reward['task'] == float(want.reward['task'])
      obs = type(obs)(got.obs, got.next)
    assert got.end == 1


def test_what_is_no_action_is_never_right():
  env = probe_tasks(task='delayed_reward')
  for i in range(4):
    _, steps = play(env, env.tasks('train')[i], [Action('what?')] + [say(0)] * 7)
    assert steps[-1].reward['task'] == 0 and steps[0].metrics['valid'] == 0
  state, _ = env.reset(env.tasks('test')[0], 0)
  with pytest.raises(ValueError, match="split 'dev'"):
    env.tasks('dev')
  with pytest.raises(ValueError, match="no probe task 'maze'; there are delayed_reward"):
    probe_tasks(task='maze')
