"""Tasks to finished trees: a generator that keeps the slots of the sampler busy.

Every round, all paths that have a slot speak once, the environment answers each, and explorers whose prompt saw something finish
are asked what to grow next. Admission depends on seeds and token counts only, never on wall time; a token's key is
fold_in(seed, prompt, branch, step, position), so what is drawn depends neither on neighbours nor on the number of slots.
"""

import dataclasses
import functools
import inspect
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import walk
from rlx.grow import engine as engines
from rlx.grow import workers
from rlx.grow.tokenizer import render
from rlx.types import Action, Env, Episode, Expand, Explorer, Group, Node, Score, Step, Task, Turn, View


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
  """How prompts are grown: everything a rollout needs beside models and tasks."""
  env: Env
  explorer: Explorer
  context: Callable
  rewards: tuple[Callable, ...] = ()
  probes: tuple[Callable, ...] = ()
  scorers: Mapping[str, Callable] = dataclasses.field(default_factory=dict)
  sampling: Mapping[str, float] = dataclasses.field(default_factory=dict)
  max_steps: int = 0               # steps an episode may have, 0: as many as the environment allows
  workers: int = 0                 # threads for the environment, 0: none


@dataclasses.dataclass(eq=False)
class _Prompt:
  """A prompt being grown."""
  task: Task
  index: int
  start: Any                       # the environment's state and first observation
  tree: list[Node] = dataclasses.field(default_factory=list)
  after: list = dataclasses.field(default_factory=list)      # per node: (state, observation, labels) after its action
  before: list = dataclasses.field(default_factory=list)     # per node: (state, observation, labels) before it
  memory: Any = None               # the explorer's
  running: int = 0
  waiting: list = dataclasses.field(default_factory=list)    # verdicts still to come: (steps, future)
  children: dict = dataclasses.field(default_factory=dict)   # (node, at) -> branches so far, to name the next one
  scores: dict = dataclasses.field(default_factory=dict)
  ask: bool = True
  asked: int = 0
  metrics: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class _Branch:
  """A path being grown."""
  prompt: _Prompt
  path: list[int]
  at: tuple                        # (state, observation, labels) it stands at
  wish: Expand
  code: int                        # names it for ever: part of its keys
  left: int | None
  stem: tuple[int, int] | None = None
  forced: tuple[int, ...] = ()
  row: list[int] = dataclasses.field(default_factory=list)   # ids of its row so far: what an append-only context repeats
  first: int = 0                   # turns dropped from the context by on_full='window'
  slot: int = -1


def rollout(pool: Mapping[str, engines.Engine], tasks: Sequence[Task], *, plan: Plan, key: jax.Array, first: int = 0,
            clock: dict | None = None) -> Iterator[Group]:
  """Grows a tree for each task and yields it when it is finished.

  Args:
    pool: model name -> engine; 'policy' is the trained one.
    tasks: the prompts, admitted in this order as slots come free.
    plan: environment, explorer, context, rewards, probes, scorers and how to sample.
    key: the step's key.
    first: number of the first prompt in the run; part of every key.
    clock: seconds by stage are added here ('sample', 'env', 'reward').

  Yields:
    Finished prompts, as they finish.

  Raises:
    RuntimeError: every path of every prompt failed: the environment is dead; the first error is quoted.
  """
  clock = {} if clock is None else clock
  todo, prompts, queue, active = deque(enumerate(tasks, first)), [], deque(), []
  slots = pool['policy'].limits.slots
  failures: list[str] = []
  answered = 0
  seed = tuple(np.asarray(jax.random.key_data(key)).tolist())
  with workers.crew(plan.workers) as crew:
    while todo or prompts:
      while todo and len(queue) + len(active) < slots:
        index, task = todo.popleft()
        prompt = _admit(task, index, plan, failures)
        prompts.append(prompt)
        _ask(prompt, plan, queue, pool, seed)
      _judge(prompts, plan, queue, pool, seed)
      while queue and len(active) < slots:
        active.append(queue.popleft())
      if active:
        active = _round(active, pool, plan, key, crew, clock, failures)
      for prompt in [p for p in prompts if p.ask]:
        _ask(prompt, plan, queue, pool, seed)
      for prompt in [p for p in prompts if not p.running and not p.ask and not _pending(p)]:
        prompts.remove(prompt)
        began = time.perf_counter()
        group = _finish(prompt, plan, pool, key)
        clock['reward'] = clock.get('reward', 0.) + time.perf_counter() - began
        answered += any(n.end in (1, 2) for n in group.nodes)
        yield group
  if failures and not answered:
    raise RuntimeError(f'every episode failed, the environment seems dead; its first error was: {failures[0]}')


# ---- prompts -----------------------------------------------------------------------------------------------------------

def _admit(task, index, plan, failures):
  prompt = _Prompt(task, index, None)
  try:
    state, obs = plan.env.reset(task, zlib.crc32(f'{task.id}:{index}'.encode()))
    if task.start is not None:
      state = task.start
    prompt.start = (state, obs.text, dict(obs.label))
    prompt.memory = plan.explorer.init(task)
  except Exception as e:   # an environment is foreign code: whatever it raises ends this prompt, not the run
    failures.append(f'{type(e).__name__}: {e}')
    prompt.metrics['failed_resets'] = 1.
    prompt.start, prompt.ask = None, False
  return prompt


def _view(prompt):
  return View(prompt.task, prompt.tree, prompt.running, prompt.scores)


def _ask(prompt, plan, queue, pool, seed):
  """Lets the explorer say what to grow next; its key is a seed for `np.random.default_rng`."""
  prompt.ask = False
  if prompt.start is None:
    return
  prompt.asked += 1
  prompt.memory, wishes = plan.explorer.expand(prompt.memory, _view(prompt), (*seed, prompt.index, prompt.asked))
  for wish in wishes:
    if isinstance(wish, Score):
      if wish.name not in plan.scorers:
        raise ValueError(f"the explorer asks for the score '{wish.name}'; there are {sorted(plan.scorers)}.")
      prompt.scores.setdefault(wish.name, {}).update({n: None for n in wish.nodes})
      continue
    if wish.by not in pool:
      raise ValueError(f"the explorer lets '{wish.by}' speak; there are {sorted(pool)}.")
    for _ in range(wish.width):
      queue.append(_branch(prompt, wish, plan, pool))
      prompt.running += 1


def _branch(prompt, wish, plan, pool):
  nodes = prompt.tree
  if wish.node >= 0 and wish.at is None and nodes[wish.node].end:
    raise ValueError(f'step {wish.node} has ended: nothing grows below it.')
  if wish.at is None:
    path = walk.path(nodes, wish.node) if wish.node >= 0 else []
    at, stem = prompt.after[wish.node] if path else prompt.start, None
  else:
    if not 0 < wish.at < len(nodes[wish.node].ids):
      raise ValueError(f'step {wish.node} has {len(nodes[wish.node].ids)} ids: no branch at {wish.at}.')
    path = walk.path(nodes, wish.node)[:-1]
    at, stem = prompt.before[wish.node], (wish.node, wish.at)
  place = (wish.node, wish.at or 0)
  number = prompt.children[place] = prompt.children.get(place, 0) + 1
  above = nodes[wish.node].branch if wish.node >= 0 else 0
  code = number - 1 if wish.node < 0 else zlib.crc32(f'{above}:{len(path)}:{wish.at}:{number}'.encode()) & 0x7fffffff
  forced = pool[wish.by].model.tokenizer.encode(wish.suffix) if wish.suffix else ()
  row = [*walk.ids_before(nodes, path[-1]), *nodes[path[-1]].ids] if path else []
  return _Branch(prompt, path, at, wish, code, wish.limit, stem, tuple(forced), row)


def _pending(prompt):
  return any(v is None for column in prompt.scores.values() for v in column.values())


def _judge(prompts, plan, queue, pool, seed):
  """Gives every asked score, batched over prompts."""
  for name, scorer in plan.scorers.items():
    asked = [(p, n) for p in prompts for n, v in p.scores.get(name, {}).items() if v is None]
    if asked:
      values = scorer(pool, [(_view(p), n) for p, n in asked])
      for (p, n), v in zip(asked, values, strict=True):
        p.scores[name][n] = float(v)
      for p in dict.fromkeys(p for p, _ in asked):
        _ask(p, plan, queue, pool, seed)


# ---- one round ---------------------------------------------------------------------------------------------------------

def _round(active, pool, plan, key, crew, clock, failures):
  """All active paths speak once, the environment answers; returns the paths that go on."""
  began = time.perf_counter()
  speaking = []
  for branch in active:
    context = _context(branch, plan, pool[branch.wish.by])
    if context is None:
      _cut_off(branch, plan, pool)
    else:
      speaking.append((branch, context))
  spoken = []
  for name, engine in pool.items():
    mine = [(b, c) for b, c in speaking if b.wish.by == name]
    for i in range(0, len(mine), engine.limits.slots):
      part = mine[i:i + engine.limits.slots]
      spoken += zip(part, _speak(engine, part, plan, key), strict=True)
  taken = time.perf_counter()
  actions = [_action(b, c, s, pool[b.wish.by]) for (b, c), s in spoken]
  answers = crew(functools.partial(_step, plan.env), [(b.at[0], a['action']) for ((b, _), _), a in zip(spoken, actions, strict=True)])
  ended = time.perf_counter()
  clock['sample'] = clock.get('sample', 0.) + taken - began
  clock['env'] = clock.get('env', 0.) + ended - taken
  going = []
  for ((branch, context), speech), action, (state, step, error) in zip(spoken, actions, answers, strict=True):
    if error:
      failures.append(error)
      branch.prompt.metrics['env_errors'] = branch.prompt.metrics.get('env_errors', 0.) + 1
    _grow(branch, context, action, state, step, plan)
    branch.slot = speech.slot
    if step.end or branch.left == 0:
      engines.free(pool[branch.wish.by], branch.slot)
      branch.prompt.running -= 1
      branch.prompt.ask = True
      if step.end:
        _reward(branch, plan, clock)
    else:
      going.append(branch)
  return going


def _context(branch, plan, engine):
  """(ids, new ids, fresh, stem ids) of the next turn; None where the path is out of room."""
  limits, nodes, tok = engine.limits, branch.prompt.tree, engine.model.tokenizer
  history = [Turn(nodes[i].obs, nodes[i].text) for i in branch.path] + [Turn(branch.at[1])]
  while True:
    parts = plan.context(_dropped(history, branch.first), branch.prompt.task)
    ids = render(parts, [nodes[i].ids for i in branch.path[branch.first:]], tok)
    stem = nodes[branch.stem[0]].ids[:branch.stem[1]] if branch.stem else []
    if len(ids) + len(stem) + len(branch.forced) + limits.turn <= limits.width:
      break
    if limits.on_full == 'error':
      raise ValueError(f"a path of prompt '{branch.prompt.task.id}' needs {len(ids) + limits.turn} ids, a slot holds {limits.width}: "
                       "raise `sampler.width`, or set `sampler.on_full` to 'end' or 'window'.")
    if limits.on_full == 'end' or branch.first + 2 >= len(history):
      return None
    branch.first += 1
    branch.prompt.metrics['windowed'] = branch.prompt.metrics.get('windowed', 0.) + 1
  fresh = not branch.row or ids[:len(branch.row)] != branch.row
  return ids, (ids if fresh else ids[len(branch.row):]), fresh, stem


def _dropped(history, n):
  """The history without its n oldest turns; the first observation always stays."""
  return history if not n else [Turn(history[0].obs, history[n].text), *history[1 + n:]]


def _speak(engine, part, plan, key):
  codes = np.asarray([[b.prompt.index, b.code, len(b.path)] for b, _ in part], np.uint32)
  keys = _keys(key, codes, engine.limits.slots)
  requests = []
  for (branch, (ids, _, _, stem)), k in zip(part, keys, strict=True):
    how = {**plan.sampling, **(branch.wish.sampling or {})}
    requests.append(engines.Request([*ids, *stem, *branch.forced], branch.slot, k, how, engine.limits.turn))
  return engines.speak(engine, requests)


@jax.jit
def _fold(key, codes):
  fold = lambda c: jax.random.key_data(jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, c[0]), c[1]), c[2]))
  return jax.vmap(fold)(codes)


def _keys(key, codes, slots):
  padded = np.zeros((slots, 3), np.uint32)
  padded[:len(codes)] = codes
  return np.asarray(_fold(key, jnp.asarray(padded)))[:len(codes)]


def _action(branch, context, speech, engine):
  """The whole action of a turn: what a stem and a suffix forced, then what was drawn."""
  _, new, fresh, stem = context
  tree = branch.prompt.tree
  n_stem, n_forced, n = len(stem), len(branch.forced), len(speech.ids)
  ids = [*stem, *branch.forced, *speech.ids]
  mine = branch.wish.by == 'policy'
  sampled = np.concatenate([tree[branch.stem[0]].sampled[:n_stem] if branch.stem else np.zeros(0, bool),
                            np.zeros(n_forced, bool), np.full(n, mine)])
  head = np.zeros(n_forced, np.float32)
  before = (lambda name: tree[branch.stem[0]].stream[name][:n_stem]) if branch.stem else (lambda name: np.zeros(0, np.float32))
  column = lambda name, values: np.concatenate([before(name), head, values if mine else np.zeros(n, np.float32)])
  stream = dict(entropy=column('entropy', speech.entropy), sampler_logp=column('sampler_logp', speech.sampler_logp))
  logp = np.concatenate([tree[branch.stem[0]].logp[:n_stem] if branch.stem else head[:0], head,
                         speech.logp if mine else np.zeros(n, np.float32)])
  text = speech.text if n == len(ids) else engine.model.tokenizer.decode(ids)
  return dict(action=Action(text, tuple(ids)), ids=ids, sampled=sampled, logp=logp, stream=stream, context=new, fresh=fresh,
              stopped=speech.stopped)


def _step(env, job):
  try:
    state, step = env.step(*job)
    return state, step, ''
  except Exception as e:   # foreign code again: the episode has failed, the run goes on
    return job[0], Step(obs='', end=3), f'{type(e).__name__}: {e}'


def _grow(branch, context, action, state, step, plan):
  """Appends the step to the tree and moves the path onto it."""
  del context
  prompt = branch.prompt
  end = step.end
  if not end and plan.max_steps and len(branch.path) + 1 >= plan.max_steps:
    end = 2
  node = Node(parent=branch.path[-1] if branch.path else -1, obs=branch.at[1], context=action['context'], fresh=action['fresh'],
              text=action['action'].text, ids=action['ids'], sampled=action['sampled'], logp=action['logp'],
              stream=action['stream'], stem=branch.stem, end=end, by=branch.wish.by, branch=branch.code,
              reward=dict(step.reward), label={**branch.at[2], **step.label}, metrics=dict(step.metrics))
  if branch.wish.by != 'policy':
    node.label.setdefault('agent', branch.wish.by)
  if not action['stopped']:
    node.metrics['unfinished_turns'] = 1.
  prompt.tree.append(node)
  prompt.before.append(branch.at)
  branch.at = (state, step.obs, dict(step.next))
  prompt.after.append(branch.at)
  branch.path = [*branch.path, len(prompt.tree) - 1]
  branch.row = [*(branch.row if not action['fresh'] else ()), *action['context'], *action['ids']]
  branch.stem, branch.forced = None, ()
  branch.left = None if branch.left is None else branch.left - 1


def _cut_off(branch, plan, pool):
  """The path is out of room: its last step is where the episode was cut off."""
  prompt = branch.prompt
  prompt.running -= 1
  prompt.ask = True
  engines.free(pool[branch.wish.by], branch.slot)
  prompt.metrics['full'] = prompt.metrics.get('full', 0.) + 1
  if branch.path:
    prompt.tree[branch.path[-1]].end = 2
    _reward(branch, plan, {})
  else:
    prompt.metrics['too_long'] = prompt.metrics.get('too_long', 0.) + 1


# ---- verdicts ------------------------------------------------------------------------------------------------------------

def _reward(branch, plan, clock):
  """Episode rewards, as the episode ends; a coroutine's verdict is waited for when the prompt is finished."""
  began = time.perf_counter()
  tree = branch.prompt.tree
  if tree[branch.path[-1]].end in (1, 2):
    episode = Episode(branch.prompt.task, [tree[i] for i in branch.path], branch.path)
    for fn in plan.rewards:
      if getattr(fn, 'grain', 'episode') == 'episode':
        verdict = fn(episode)
        if inspect.isawaitable(verdict):
          branch.prompt.waiting.append((episode.steps, workers.later(verdict)))
        else:
          _write(tree, episode.steps, verdict)
  clock['reward'] = clock.get('reward', 0.) + time.perf_counter() - began


def _write(tree, steps, verdict):
  """{channel: one float a step, or None} onto the steps; a shared step keeps the first verdict that is one."""
  for channel, values in verdict.items():
    if len(values) != len(steps):
      raise ValueError(f"the reward '{channel}' gave {len(values)} numbers for {len(steps)} steps.")
    for s, v in zip(steps, values, strict=True):
      if tree[s].reward.get(channel) is None:
        tree[s].reward[channel] = None if v is None else float(v)


def _finish(prompt, plan, pool, key):
  """Waits for verdicts, lets group rewards and probes run, and hands the tree over."""
  tree = prompt.tree
  for steps, future in prompt.waiting:
    _write(tree, steps, future.result())
  group = Group(prompt.task, tree, {}, prompt.metrics, prompt.index)
  finished = list(walk.episodes(group))
  for fn in plan.rewards:
    if getattr(fn, 'grain', 'episode') == 'group' and finished:
      verdict = fn(finished)
      verdict = workers.later(verdict).result() if inspect.isawaitable(verdict) else verdict
      for episode, one in zip(finished, verdict, strict=True):
        _write(tree, episode.steps, one)
  if plan.probes and tree:
    _probe(group, prompt, plan, pool, key)
  return group


def _probe(group, prompt, plan, pool, key):
  """Runs the probes of a finished prompt on the warm cache and reduces each to one number."""
  engine = pool['policy']
  tok, probes = engine.model.tokenizer, [p for fn in plan.probes for p in fn(_view(prompt))]
  contexts, suffixes = [], []
  for p in probes:
    if p.node >= 0:
      node = group.nodes[p.node]
      contexts.append([*walk.ids_before(group.nodes, p.node), *node.ids])
    else:
      contexts.append(list(tok.turn(prompt.start[1], True)))
    suffixes.append(list(tok.encode(p.suffix)))
  forced = [i for i, p in enumerate(probes) if not p.samples]
  results: dict[int, float] = {}
  for i, logp in zip(forced, engines.score(engine, [contexts[i] for i in forced], [suffixes[i] for i in forced]), strict=True):
    skip = len(tok.encode(probes[i].suffix[:probes[i].score_from])) if probes[i].score_from else 0
    results[i] = float(np.mean(logp[skip:]) if probes[i].reduce == 'mean_logp' else np.sum(logp[skip:]))
  for i, p in enumerate(probes):
    if p.samples:
      codes = np.asarray([[prompt.index, 0x70000000 + i, s] for s in range(p.samples)], np.uint32)
      got = []
      for s in range(0, p.samples, engine.limits.slots):
        keys = _keys(key, codes[s:s + engine.limits.slots], engine.limits.slots)
        got += engines.speak(engine, [engines.Request([*contexts[i], *suffixes[i]], -1, k, dict(plan.sampling), p.limit) for k in keys])
        for g in got:
          engines.free(engine, g.slot)
      of = dict(mean_logp=lambda g: g.logp.mean(), sum_logp=lambda g: g.logp.sum(), mean_entropy=lambda g: g.entropy.mean())[p.reduce]
      results[i] = float(np.mean([of(g) for g in got]))
  for i, p in enumerate(probes):
    (group.nodes[p.node].value if p.node >= 0 else group.prompt)[p.name] = results[i]
