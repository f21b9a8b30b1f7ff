"""Five small tasks, each of which asks one thing of credit: as a `DeviceEnv` inside jit, and as text.

An action is three symbols, `<switch>1</switch><plan>2</plan><action>3</action>`: whether to take up a plan, which one, what to do. Only
`plan_execute` looks at the first two. `device(i)` is task i of `TASKS` and also takes a traced i, so that one program can run them all.
"""

import functools
import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.types import Action, Array, DeviceEnv, DeviceStep, Obs, Step, Task

TASKS = ('delayed_reward', 'revisit', 'plan_execute', 'fork', 'noisy_long')
TURNS = (8, 12, 9, 8, 24)
CHANNELS = ('task', 'turn', 'prm', 'format')
LABELS = ('state', 'action', 'next', 'switch', 'turn', 'tag')
PROMPTS, SYMBOLS, OBSERVATIONS = 4, (2, 4, 4), 16
FORK = 3          # the turn that matters in `fork`
FLIPS = .1        # share of wrong verdicts on 'turn'
SPREAD = .3       # deviation of the noise on 'prm'
NOISE = .25       # deviation of the noise on the last reward of `noisy_long`
FIELDS = ('switch', 'plan', 'action')

writes = tuple(f'reward/{c}' for c in CHANNELS) + tuple(f'label/{k}' for k in LABELS)


class Spot(NamedTuple):
  """Where a path stands, `[]` i32 each."""
  prompt: Array
  turn: Array
  place: Array     # revisit: where in the corridor; fork: 1 on the good side
  plan: Array      # plan_execute: the plan taken up, 4: none yet
  score: Array     # right actions so far


# ---- the tasks: what is seen, what is right, where an action leads -----------------------------------------------------

def _delayed(s):
  """The first action must repeat the cue; whether it did is paid eight turns later."""
  return jnp.where(s.turn == 0, s.prompt, 3 + s.turn), jnp.where(s.turn == 0, s.prompt, -1)


def _revisit(s):
  """A corridor of seven places with the goal at one end: left, right, wait, back to the middle. Paid on arrival."""
  side = s.prompt % 2
  return s.place + 7 * side, side


def _plan_execute(s):
  """Three segments of three turns. Only the first turn of a segment shows its cue, later ones the plan that was taken up; each action
  must be the cue plus the turn. Paid at the end: the share of right actions."""
  at, cue = s.turn % 3, (s.prompt + s.turn // 3) % 4
  return jnp.where(at == 0, cue, 4 + 5 * (at - 1) + s.plan), (cue + at) % 4


def _fork(s):
  """Turn 3 of 8 shows a cue; the action that repeats it leads to the good side, all others to the bad one. Paid at the end."""
  seen = jnp.where(s.turn < FORK, s.turn, jnp.where(s.turn == FORK, 3 + s.prompt, 3 + s.turn + 4 * s.place))
  return seen, jnp.where(s.turn == FORK, s.prompt, -1)


def _noisy_long(s):
  """24 cues, each to be answered by three times itself plus one; the share of right answers is paid at the end, with noise."""
  cue = (s.prompt + s.turn * (s.turn + 1) // 2) % 4
  return cue, (3 * cue + 1) % 4


_SEEN = (_delayed, _revisit, _plan_execute, _fork, _noisy_long)


def _success(i, s, key):
  """(whether it is over, what is paid then) behind the last action; `s` counts it."""
  over = s.turn >= jnp.asarray(TURNS)[i]
  share = s.score.astype(jnp.float32)
  there = (i == 1) & (s.place == jnp.where(s.prompt % 2 == 1, 6, 0))
  paid = jnp.stack([share, jnp.where(there, 1., 0.), share / 9., share, share / 24. + NOISE * jax.random.normal(key)])[i]
  return over | there, jnp.where(over | there, paid, 0.)


def device(task: int | str | Array = 0) -> DeviceEnv:
  """A task on arrays.

  Args:
    task: a name of `TASKS`, or its index, which may be traced.

  Raises:
    ValueError: no such task.
  """
  if isinstance(task, str):
    if task not in TASKS:
      raise ValueError(f"there is no probe task '{task}'; there are {', '.join(TASKS)}")
    task = TASKS.index(task)
  i = jnp.asarray(task, jnp.int32)

  def reset(prompt, key):
    del key
    zero = jnp.zeros_like(prompt)
    return Spot(prompt, zero, jnp.where(i == 1, 3, 0), zero + 4, zero)

  def see(s):
    return jax.lax.switch(i, _SEEN, s)

  def step(s, action, key):
    seen, right = see(s)
    switch, plan, act = action[0], action[1], action[2]
    good = (act == right) | (right < 0)
    plan_now = jnp.where((switch > 0) & (i == 2), plan, s.plan)
    moved = jnp.clip(jnp.stack([s.place - 1, s.place + 1, s.place, jnp.full_like(s.place, 3)])[act], 0, 6)
    place = jnp.where(i == 1, moved, jnp.where((i == 3) & (s.turn == FORK), good.astype(jnp.int32), s.place))
    counts = (act == right) & (right >= 0)
    after = Spot(s.prompt, s.turn + 1, place, plan_now, s.score + counts.astype(jnp.int32))
    flip, spread, last = jax.random.split(key, 3)
    over, paid = _success(i, after, last)
    says = good ^ jax.random.bernoulli(flip, FLIPS)
    idle = (switch > 0) & ((i != 2) | (s.turn % 3 != 0))
    reward = dict(task=paid, turn=says.astype(jnp.float32), prm=good.astype(jnp.float32) + SPREAD * jax.random.normal(spread),
                  format=jnp.where(idle, -.1, 0.))
    label = dict(state=seen, action=act, next=jnp.where(over, OBSERVATIONS + counts.astype(jnp.int32), see(after)[0]), switch=switch,
                 turn=s.turn, tag=plan)
    return after, DeviceStep(over.astype(jnp.int32), reward, label)

  def right(s):
    act = see(s)[1]
    return jnp.stack([((i == 2) & (s.turn % 3 == 0)).astype(jnp.int32), (s.prompt + s.turn // 3) % 4, jnp.where(act < 0, 0, act)])

  def answer(s):
    return jnp.where((i == 0) | (i == 3), s.prompt, -1)

  return DeviceEnv(reset, lambda s: see(s)[0], step, right, answer, PROMPTS, max(TURNS), OBSERVATIONS, SYMBOLS)


# ---- as text -----------------------------------------------------------------------------------------------------------

class State(NamedTuple):
  """A path of the text environment: plain integers."""
  spot: tuple
  noise: int       # what its next noise is drawn from: the seed and every action so far
  over: bool = False


@functools.cache
def _functions(task):
  env = device(task)
  return jax.jit(env.reset), jax.jit(env.observe), jax.jit(env.step), jax.jit(env.right)


class Probe(NamedTuple):
  """The environment; made by `probe_tasks`."""
  task: str
  size: int
  skill: float

  writes = writes

  def tasks(self, split: str) -> Sequence[Task]:
    """`size` tasks a split ('train', 'test'), over the four prompts; they differ in their noise."""
    if split not in ('train', 'test'):
      raise ValueError(f"split '{split}' is not one of ['train', 'test']")
    return [Task(f'probe/{self.task}/{split}/{i}', dict(prompt=i % PROMPTS, answer=str(i % PROMPTS))) for i in range(self.size)]

  def reset(self, task: Task, seed: int) -> tuple[State, Obs]:
    """The beginning; `seed` draws the noise."""
    reset, observe, *_ = _functions(self.task)
    spot = reset(np.int32(task.data['prompt']), jax.random.key(0))
    seen = int(observe(spot))
    return State(tuple(int(x) for x in spot), seed % 2**32), Obs(f'o{seen}', {'state': seen})

  def step(self, state: State, action: Action) -> tuple[State, Step]:
    """One action; a field it does not give is 0, and without `<action>` it is never right."""
    if state.over:
      raise ValueError('the episode is over')
    _, observe, step, _ = _functions(self.task)
    said = {k: int(v) % n for k, n in zip(FIELDS, SYMBOLS) for v in re.findall(rf'<{k}>\s*(\d)\s*</{k}>', action.text)[-1:]}
    spot = Spot(*map(np.int32, state.spot))
    noise = zlib.crc32(action.text.encode(), state.noise)
    symbols = np.array([said.get(k, 0) for k in FIELDS], np.int32)
    if 'action' not in said:                       # any symbol but the right one
      symbols[2] = (int(_functions(self.task)[3](spot)[2]) + 1) % SYMBOLS[2]
    after, got = step(spot, symbols, jax.random.key(noise))
    end, seen = int(got.end), int(observe(after))
    label = {k: int(v) for k, v in got.label.items() if k != 'state'}      # that one came with the observation
    reward = {k: float(v) for k, v in got.reward.items()}
    metrics = dict(valid=float(len(said) == 3), **({'success': reward['task']} if end else {}))
    following = {} if end else {'state': seen}
    return State(tuple(int(x) for x in after), noise, bool(end)), Step('' if end else f'o{seen}', reward, end, label, metrics, following)

  def expert(self, task: Task, seed: int):
    """A speaker that does the right thing with probability `skill`, anything else otherwise."""
    rng, right = np.random.default_rng(seed), _functions(self.task)[3]
    state, _ = self.reset(task, seed)
    while not state.over:
      best = [int(x) for x in right(Spot(*map(np.int32, state.spot)))]
      said = [b if rng.random() < self.skill else int(rng.integers(n)) for b, n in zip(best, SYMBOLS)]
      text = ''.join(f'<{k}>{x}</{k}>' for k, x in zip(FIELDS, said))
      yield text
      state, _ = self.step(state, Action(text))


def probe_tasks(*, task: str = 'delayed_reward', size: int = 256, skill: float = .5) -> Probe:
  """One of the probe tasks as text.

  Rewards: 'task' at the end; 'turn', a judge's verdict on each action, wrong one time in ten; 'prm', a noisy score of it; 'format',
  -0.1 for taking up a plan where there is nothing to plan. Labels: 'state', 'action', 'next', 'switch', 'turn', 'tag' (the plan).

  Args:
    task: 'delayed_reward' | 'revisit' | 'plan_execute' | 'fork' | 'noisy_long'.
    size: tasks of a split.
    skill: how often the scripted expert does the right thing.

  Raises:
    ValueError: no such task.
  """
  device(task)
  return Probe(task, size, skill)
