"""Tasks to finished trees: a generator that keeps the slots of the sampler busy.

Every round, all paths that have a slot speak once, the environment answers each, and explorers whose prompt saw something finish
are asked what to grow next. Admission depends on seeds and token counts only, never on wall time; a token's key is
fold_in(seed, prompt, branch, step, position), so what is drawn depends neither on neighbours nor on the number of slots.
"""

import contextlib
import dataclasses
import functools
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx import walk
from rlx.grow import engine as engines
from rlx.grow import verdicts, workers
from rlx.grow.tokenizer import body, render
from rlx.types import Action, Cut, Env, Expand, Explorer, Group, Node, Obs, Score, Step, Task, Turn, View


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
  streams: tuple[str, ...] | None = None   # per-token numbers the explorer says it writes; None: any
  max_steps: int = 0               # steps an episode may have, 0: as many as the environment allows
  workers: int = 0                 # threads for the environment, 0: none


@dataclasses.dataclass(eq=False)
class _Prompt:
  """A prompt being grown."""
  task: Task
  index: int
  start: Any = None                # the environment's state, first observation and labels; None: it could not begin
  tree: list[Node] = dataclasses.field(default_factory=list)
  after: list = dataclasses.field(default_factory=list)      # per node: (state, observation, labels) after its action
  before: list = dataclasses.field(default_factory=list)     # per node: (state, observation, labels) before it
  memory: Any = None               # the explorer's
  running: int = 0
  children: Counter = dataclasses.field(default_factory=Counter)   # (node, at) -> branches so far, to name the next one
  pending: Counter = dataclasses.field(default_factory=Counter)    # step -> branches that are to go on from it and have not yet
  scores: dict = dataclasses.field(default_factory=dict)
  ask: bool = True
  asked: int = 0
  waiting: list = dataclasses.field(default_factory=list)    # verdicts under way
  authors: dict = dataclasses.field(default_factory=dict)    # (node, channel) -> the reward that wrote it
  compared: bool = False           # group rewards have been asked
  known: dict = dataclasses.field(default_factory=dict)      # of the prompt itself, by probes
  metrics: dict = dataclasses.field(default_factory=dict)

  def count(self, name):
    self.metrics[name] = self.metrics.get(name, 0.) + 1


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
  turns: list[Turn] = dataclasses.field(default_factory=list)      # what its context may show: of each step observation and text,
  ids: list[list[int]] = dataclasses.field(default_factory=list)   # and the ids of its action
  row: list[int] = dataclasses.field(default_factory=list)   # ids of its row so far: what an append-only context repeats
  first: int = 0                   # turns dropped from the context by on_full='window'
  slot: int = -1
  behind: int | None = None        # the step it is pending on, -1: the prompt; None: it has spoken, or forks an action


class _Said(NamedTuple):
  """An action as it stands in the tree: what a stem and a suffix forced, then what was drawn."""
  action: Action
  sampled: np.ndarray
  logp: np.ndarray
  stream: dict
  context: list[int]
  fresh: bool
  stopped: bool


def rollout(pool: Mapping[str, engines.Engine], tasks: Sequence[Task], *, plan: Plan, key: jax.Array, first: int = 0,
            clock: dict | None = None) -> Iterator[Group]:
  """Grows a tree for each task and yields it when it is finished.

  Args:
    pool: model name -> engine; 'policy' is the trained one.
    tasks: the prompts, admitted in this order as slots come free.
    plan: environment, explorer, context, rewards, probes, scorers and how to sample.
    key: the step's key.
    first: number of the first prompt in the run; part of every key.
    clock: seconds by stage are added here ('sample', 'env', 'reward', 'probe').

  Yields:
    Finished prompts, as they finish; those whose rewards are coroutines last, when nothing else is left to grow. Their `metrics`
    count what went wrong: 'failed_resets', 'env_errors', 'reward_errors', paths that were 'full' or 'too_long' (no room for a first
    action), turns that were 'windowed', 'probes_full'.

  Raises:
    RuntimeError: every path of every prompt failed, or every verdict of a reward: the first error is quoted.
    ValueError: an explorer's wish, a reward's verdict or a probe that cannot be; with on_full='error', a full path.
  """
  clock = {} if clock is None else clock
  todo, prompts, queue, active = deque(enumerate(tasks, first)), [], deque(), []
  slots = pool['policy'].limits.slots
  late, failures, lost, alive = [], [], {}, False
  serve = verdicts.server(plan.rewards, pool['policy'], key)
  seed = tuple(np.asarray(jax.random.key_data(key)).tolist())
  with workers.crew(plan.workers) as crew, vacated(pool):
    while todo or prompts:
      while todo and len(queue) + len(active) < slots:
        index, task = todo.popleft()
        prompt = _admit(task, index, plan, seed, failures)
        prompts.append(prompt)
        _ask(prompt, plan, queue, pool, seed)
      _judge(prompts, plan, queue, pool, seed)
      for prompt in [p for p in prompts if not p.running]:
        prompts.remove(prompt)
        alive |= _alive(prompt)
        _close(prompt, plan, pool, key, clock)
        if prompt.waiting:
          late.append(prompt)
        elif todo or prompts or alive or not failures:   # where everything failed, the last one is an error instead
          yield _group(prompt)
      _seat(queue, active, pool)
      if active:
        active = _round(active, pool, plan, key, crew, clock, failures)
      for prompt in [p for p in prompts if p.ask]:
        _ask(prompt, plan, queue, pool, seed)
  if failures and not alive:
    raise RuntimeError(f'every episode failed, the environment seems dead; its first error was: {failures[0]}')
  with _timed(clock, 'reward'):
    verdicts.settle(late, plan.rewards, lost, serve)
  given = set().union(*(verdicts.authors(p) for p in late))
  for name, errors in lost.items():
    if all(errors) and name not in given:
      raise RuntimeError(f"every verdict of the reward '{name}' failed; its first error was: {errors[0]}")
  yield from map(_group, late)


@contextlib.contextmanager
def vacated(pool: Mapping[str, engines.Engine]):
  """Slots that were taken inside are vacant again where it is left early: by an exception, Ctrl-C or a generator's close()."""
  before = {name: engine.busy.copy() for name, engine in pool.items()}
  try:
    yield
  except BaseException:
    for name, engine in pool.items():
      engine.busy &= before[name]      # not simply set back: a refresh in between has freed all of them
    raise


@contextlib.contextmanager
def _timed(clock, stage):
  began = time.perf_counter()
  yield
  clock[stage] = clock.get(stage, 0.) + time.perf_counter() - began


# ---- prompts -----------------------------------------------------------------------------------------------------------

def _admit(task, index, plan, seed, failures):
  prompt = _Prompt(task, index, memory=plan.explorer.init(task))
  try:
    state, obs = plan.env.reset(task, zlib.crc32(f'{seed}:{task.id}:{index}'.encode()))
    if isinstance(task.start, tuple) and len(task.start) == 2 and isinstance(task.start[1], Obs):
      state, obs = task.start
    elif task.start is not None:
      state = task.start
    prompt.start = state, obs.text, dict(obs.label)
  except Exception as e:   # an environment is foreign code: whatever it raises ends this prompt, not the run
    failures.append(f'{type(e).__name__}: {e}')
    prompt.count('failed_resets')
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
    _refuse(prompt, wish, plan, pool)
    if isinstance(wish, Score):
      prompt.scores.setdefault(wish.name, {}).update({int(n): None for n in wish.nodes})
      continue
    if isinstance(wish, Cut):
      for n in wish.nodes:
        _cut(prompt, n, plan)
        if prompt.tree[n].end == 2:
          verdicts.pay(prompt, walk.path(prompt.tree, n), plan.rewards)
      continue
    for _ in range(wish.width):
      queue.append(_branch(prompt, wish, pool))
      if wish.at is None:
        prompt.pending[wish.node] += 1
      prompt.running += 1


def _refuse(prompt, wish, plan, pool):
  """Raises where a wish cannot be."""
  tree = prompt.tree
  if not isinstance(wish, Expand | Score | Cut):
    raise ValueError(f'an explorer returns Expand, Score and Cut, not {wish!r}.')
  nodes = wish.nodes if isinstance(wish, Score | Cut) else [wish.node] * (wish.node != -1)
  if outside := [n for n in nodes if not 0 <= n < len(tree)]:
    raise ValueError(f'the explorer names step {outside[0]}; the tree has {len(tree)} steps.')
  if isinstance(wish, Score):
    if wish.name not in plan.scorers:
      raise ValueError(f"the explorer asks for the score '{wish.name}'; there are {sorted(plan.scorers)}.")
    return
  if isinstance(wish, Cut):
    if prompt.running or len(set(wish.nodes)) < len(wish.nodes):
      raise ValueError('the explorer cuts paths off while others of the prompt still grow, or one twice.')
    above = {n.parent for n in tree}
    if lives := [n for n in wish.nodes if tree[n].end or n in above or prompt.pending[n]]:
      raise ValueError(f'the explorer cuts step {lives[0]} off, which has ended or goes on.')
    return
  if wish.by not in pool:
    raise ValueError(f"the explorer lets '{wish.by}' speak; there are {sorted(pool)}.")
  if unknown := set(wish.sampling or ()) - set(engines.SETTINGS):
    raise ValueError(f"the explorer sets '{sorted(unknown)[0]}' for sampling; there are {sorted(engines.SETTINGS)}.")
  own, declared = wish.sampling or {}, lambda stream: plan.streams is None or stream in plan.streams
  if 'temperature' in own and not declared('temperature'):
    raise ValueError("the explorer samples at a temperature of its own: mark its factory `writes = ('stream/temperature',)`, so that "
                     'the tokens are trained at the temperature they were drawn at.')
  # where the run's own sampling truncates, the config has declared the column
  if engines.truncates(own) and not engines.truncates(plan.sampling) and not declared('sampler_logp'):
    cuts = sorted({'top_k', 'top_p', 'min_p'} & set(own))
    raise ValueError(f"the explorer samples with a {cuts[0]} of its own: mark its factory `writes = ('stream/sampler_logp',)`, so "
                     'that the tokens are trained with the probabilities they were drawn with.')
  if wish.limit is not None and wish.limit < 1:
    raise ValueError(f'the explorer lets a branch grow for {wish.limit} steps; limit is at least 1, or None.')
  if wish.at is None:
    if wish.node >= 0 and tree[wish.node].end:
      raise ValueError(f'step {wish.node} has ended: nothing grows below it.')
  elif wish.node < 0 or not 0 < wish.at < len(tree[wish.node].ids):
    size = f'step {wish.node} has {len(tree[wish.node].ids)} ids' if wish.node >= 0 else 'the prompt is no action'
    raise ValueError(f'{size}: no branch at {wish.at}.')


def _branch(prompt, wish, pool):
  nodes = prompt.tree
  path = walk.path(nodes, wish.node)
  if wish.at is None:
    at, stem = prompt.after[wish.node] if path else prompt.start, None
  else:
    path, at, stem = path[:-1], prompt.before[wish.node], (wish.node, wish.at)
  prompt.children[wish.node, wish.at] += 1
  number = prompt.children[wish.node, wish.at]
  above = nodes[wish.node].branch if wish.node >= 0 else 0
  code = number - 1 if wish.node < 0 else zlib.crc32(f'{above}:{len(path)}:{wish.at}:{number}'.encode()) & 0x7fffffff
  forced = pool[wish.by].model.tokenizer.encode(wish.suffix) if wish.suffix else ()
  row = [*walk.ids_before(nodes, path[-1]), *nodes[path[-1]].ids] if path else []
  return _Branch(prompt, path, at, wish, code, wish.limit, stem, tuple(forced), *_history(nodes, path), row,
                 behind=wish.node if wish.at is None else None)


def _judge(prompts, plan, queue, pool, seed):
  """Gives every score that was asked for, batched over prompts, until no explorer asks for another."""
  while True:
    asked = {name: [(p, n) for p in prompts for n, v in p.scores.get(name, {}).items() if v is None] for name in plan.scorers}
    if not any(asked.values()):
      return
    for name, wanted in asked.items():
      if wanted:
        values = plan.scorers[name](pool, [(_view(p), n) for p, n in wanted])
        for (p, n), v in zip(wanted, values, strict=True):
          p.scores[name][n] = float(v)
    for p in dict.fromkeys(p for wanted in asked.values() for p, _ in wanted):
      _ask(p, plan, queue, pool, seed)


def _alive(prompt):
  """Whether anything came of a prompt: a path that did not end in an error."""
  above = {n.parent for n in prompt.tree}
  return prompt.start is not None and (not prompt.tree or any(n.end != 3 for i, n in enumerate(prompt.tree) if i not in above))


def _close(prompt, plan, pool, key, clock):
  """A prompt whose paths have all ended: probes, and the rewards of the whole unless an episode's are still under way."""
  if plan.probes and prompt.tree:
    with _timed(clock, 'probe'):
      shown = functools.partial(_shown, prompt, plan, pool['policy'])
      prompt.known = verdicts.probe(prompt, _view(prompt), plan.probes, pool['policy'], shown=shown, key=key,
                                    sampling=plan.sampling)
  if not prompt.waiting:
    with _timed(clock, 'reward'):
      verdicts.compare(prompt, plan.rewards)


def _group(prompt):
  return Group(prompt.task, prompt.tree, prompt.known, prompt.metrics, prompt.index)


# ---- one round ---------------------------------------------------------------------------------------------------------

def _seat(queue, active, pool):
  """Paths in line get a slot, in their order."""
  taken = Counter(b.wish.by for b in active)
  while queue and len(active) < pool['policy'].limits.slots and taken[by := queue[0].wish.by] < pool[by].limits.slots:
    taken[by] += 1
    active.append(queue.popleft())


def _round(active, pool, plan, key, crew, clock, failures):
  """All active paths speak once, the environment answers; returns the paths that go on."""
  with _timed(clock, 'sample'):
    spoken = []
    contexts = [(b, _context(b, plan, pool[b.wish.by])) for b in active]
    for name, engine in pool.items():
      mine = [(b, c) for b, c in contexts if b.wish.by == name and c is not None]
      if mine:
        spoken += zip(mine, _speak(engine, mine, plan, key), strict=True)
    said = [_said(b, c, s, pool[b.wish.by]) for (b, c), s in spoken]
  with _timed(clock, 'env'):
    answers = crew(functools.partial(_step, plan.env), [(b.at[0], a.action) for ((b, _), _), a in zip(spoken, said, strict=True)])
  going = []
  for ((branch, _), speech), one, (state, step, error) in zip(spoken, said, answers, strict=True):
    if error:
      failures.append(error)
      branch.prompt.count('env_errors')
    branch.slot = speech.slot
    if _grow(branch, one, state, step, plan) or branch.left == 0:
      _leave(branch, plan, pool, clock)
    else:
      going.append(branch)
  for branch, context in contexts:
    if context is None:
      _cut_off(branch, plan, pool, clock)
  return going


def _context(branch, plan, engine):
  """(ids before the action, the stem's ids, ids that may be drawn) of the next turn; None where the path is out of room."""
  limits, prompt, nodes = engine.limits, branch.prompt, branch.prompt.tree
  stem, room = [], limits.turn
  if branch.stem:   # drawn behind just these ids, so they are not chosen again; what was drawn counts against the turn
    node, at = branch.stem
    stem, ids = nodes[node].ids[:at], walk.ids_before(nodes, node)
    room = max(room - (int(nodes[node].sampled[:at].sum()) if nodes[node].by == 'policy' else at), 1)
    need = len(stem) + len(branch.forced) + room
    ids = ids if len(ids) + need <= limits.width else None
  else:
    need, before = len(branch.forced) + room, branch.first
    ids, branch.first = _fit(branch.turns, branch.ids, branch.at[1], prompt.task, plan, engine, need, before)
    for _ in range(branch.first - before if ids is not None else 0):
      prompt.count('windowed')
  if ids is None and limits.on_full == 'error':
    raise ValueError(f"a path of prompt '{prompt.task.id}' has no room for a turn of {need} ids, a slot holds {limits.width}: raise "
                     "`sampler.width`, or set `sampler.on_full` to 'end' or 'window'.")
  return None if ids is None else (ids, stem, room)


def _history(nodes, path):
  """Observations, texts and ids of the steps of a path, for its context."""
  return [Turn(nodes[i].obs, nodes[i].text) for i in path], [nodes[i].ids for i in path]


def _fit(turns, said, obs, task, plan, engine, need, first):
  """(ids of the context, turns dropped from it): as few as leave the room that is needed; ids None if none do."""
  limits, now = engine.limits, Turn(obs)
  while first <= len(turns):
    # the first observation always stays; its action goes with the turns that are dropped
    history, ids = ([*turns, now], said) if not first else ([Turn(turns[0].obs), *turns[first:], now], [[], *said[first:]])
    ids = render(plan.context(history, task), ids, engine.model.tokenizer)
    if len(ids) + need <= limits.width:
      return ids, first
    if limits.on_full != 'window':
      break
    first += 1
  return None, first


def _shown(prompt, plan, engine, i, need):
  """Ids behind step i (-1: the prompt) as the next turn would see them, the new observation included; None if they do not fit."""
  nodes = prompt.tree
  if i >= 0 and nodes[i].end:
    ids = [*walk.ids_before(nodes, i), *nodes[i].ids]
    return ids if len(ids) + need <= engine.limits.width else None
  obs = (prompt.after[i] if i >= 0 else prompt.start)[1]
  fit = functools.partial(_fit, *_history(nodes, walk.path(nodes, i)), obs, prompt.task, plan, engine)
  ids, first = fit(engine.limits.turn, 0) if engine.limits.on_full == 'window' else (None, 0)
  return fit(need, first if ids is not None else 0)[0]   # what the next turn drops is dropped here too, however little is asked


def _speak(engine, part, plan, key):
  codes = [(b.prompt.index, b.code, len(b.path)) for b, _ in part]
  requests = []
  for (branch, (ids, stem, room)), k in zip(part, engines.keys(key, codes, engine.limits.slots), strict=True):
    how = {**plan.sampling, **branch.wish.sampling} if branch.wish.sampling else plan.sampling
    begun = [*stem, *branch.forced]
    requests.append(engines.Request(ids + begun, branch.slot, k, how, room, len(begun)))
  return engines.speak(engine, requests)


def _said(branch, context, speech, engine):
  """The whole action of a turn, and what of its context is new."""
  ids, stem, _ = context
  drawn = dict(sampled=np.ones(len(speech.ids), bool), logp=speech.logp, entropy=speech.entropy, sampler_logp=speech.sampler_logp)
  if 'temperature' in (branch.wish.sampling or ()):     # at 0 the log-probabilities are those at 1
    drawn['temperature'] = np.full(len(speech.ids), branch.wish.sampling['temperature'] or 1., np.float32)
  if branch.wish.by != 'policy':
    drawn = {k: np.zeros_like(v) for k, v in drawn.items()}
  text, whole = speech.text, speech.ids
  if stem or branch.forced:
    whole = [*stem, *branch.forced, *speech.ids]
    text = engine.model.tokenizer.decode(body(whole, engine.model.tokenizer))
    of = branch.prompt.tree[branch.stem[0]] if stem else None
    old = dict(sampled=of.sampled, logp=of.logp, **of.stream) if stem else {k: v[:0] for k, v in drawn.items()}
    drawn = {k: np.concatenate([old.get(k, np.zeros(len(stem), v.dtype))[:len(stem)], np.zeros(len(branch.forced), v.dtype), v])
             for k, v in drawn.items()}
  fresh = not branch.row or ids[:len(branch.row)] != branch.row
  return _Said(Action(text, tuple(whole)), drawn.pop('sampled'), drawn.pop('logp'), drawn, ids if fresh else ids[len(branch.row):],
               fresh, speech.stopped)


def _step(env, job):
  try:
    state, step = env.step(*job)
    return state, step, ''
  except Exception as e:   # foreign code again: the episode has failed, the run goes on
    return job[0], Step(obs='', end=3), f'{type(e).__name__}: {e}'


def _grow(branch, said, state, step, plan):
  """Appends the step to the tree and moves the path onto it; returns its end."""
  prompt, ids = branch.prompt, list(said.action.ids)
  end = 2 if not step.end and len(branch.path) + 1 == plan.max_steps else step.end
  node = Node(parent=branch.path[-1] if branch.path else -1, obs=branch.at[1], context=said.context, fresh=said.fresh,
              text=said.action.text, ids=ids, sampled=said.sampled, logp=said.logp, stream=said.stream, stem=branch.stem, end=end,
              by=branch.wish.by, branch=branch.code, greedy=not {**plan.sampling, **(branch.wish.sampling or {})}.get('temperature', 1.),
              reward=dict(step.reward), label={**branch.at[2], **step.label}, metrics=dict(step.metrics))
  if branch.wish.by != 'policy':
    node.label.setdefault('agent', branch.wish.by)
  if not said.stopped:
    node.metrics['unfinished_turns'] = 1.
  prompt.tree.append(node)
  prompt.before.append(branch.at)
  branch.at = (state, step.obs, dict(step.next))
  prompt.after.append(branch.at)
  if end != step.end:
    _cut(prompt, len(prompt.tree) - 1, plan)
  _settle(branch)
  branch.path = [*branch.path, len(prompt.tree) - 1]
  branch.turns.append(Turn(node.obs, node.text))
  branch.ids.append(ids)
  branch.row = [*(branch.row if not said.fresh else ()), *said.context, *ids]
  branch.stem, branch.forced = None, ()
  branch.left = None if branch.left is None else branch.left - 1
  return node.end


def _settle(branch):
  """The branch has gone on from its step, or never will."""
  if branch.behind is not None:
    branch.prompt.pending[branch.behind] -= 1
    branch.behind = None


def _cut(prompt, i, plan):
  """Step i ends its episode by a limit of ours: the environment says what that pays."""
  node = prompt.tree[i]
  node.end = 2
  if hasattr(plan.env, 'cut'):
    try:
      step = plan.env.cut(prompt.after[i][0])
      node.reward.update({c: v + (node.reward.get(c) or 0.) for c, v in step.reward.items()})
      node.metrics.update(step.metrics)
    except Exception:   # foreign code: the episode has failed, the run goes on
      node.end = 3
      prompt.count('env_errors')


def _leave(branch, plan, pool, clock):
  """The path grows no further: its slot is free, an episode that ended is paid, the explorer is asked."""
  prompt = branch.prompt
  engines.free(pool[branch.wish.by], branch.slot)
  prompt.running -= 1
  prompt.ask = True
  if branch.path and prompt.tree[branch.path[-1]].end in (1, 2):
    with _timed(clock, 'reward'):
      verdicts.pay(prompt, branch.path, plan.rewards)


def _cut_off(branch, plan, pool, clock):
  """The path is out of room: its last step is where the episode was cut off, unless others went on from there or may yet."""
  prompt, stem = branch.prompt, branch.stem
  prompt.count('full')
  _settle(branch)
  if not branch.path and not stem:
    prompt.count('too_long')
  open_end = branch.path and not stem and not prompt.tree[branch.path[-1]].end
  if open_end and not prompt.pending[branch.path[-1]] and all(n.parent != branch.path[-1] for n in prompt.tree):
    _cut(prompt, branch.path[-1], plan)
  else:
    branch.path = []
  _leave(branch, plan, pool, clock)
