"""The nouns of rlx: two tables joined by one integer column, and one protocol for each extension point.

Dims: `N` steps (nodes), `R` rows, `T` tokens, `G` prompts, `V` vocabulary, `B` slots of the sampler.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array
Columns = Mapping[str, Array]


def struct(cls):
  """A frozen, keyword-only dataclass that is a pytree; every `Columns` field defaults to {}."""
  for name, kind in cls.__annotations__.items():
    if kind == Columns:
      setattr(cls, name, dataclasses.field(default_factory=dict))
  return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


# ---- device: the two tables ----------------------------------------------------------------------------------------

@struct
class Nodes:
  """One row per step: parents before children, groups contiguous, padded to `N`.

  An episode is a path from a first step to a step whose `end` is 1 or 2. On padding: parent -1, group 0, reward 0.
  """
  parent: Array    # [N] i32  previous step on the path, -1 at a first step
  group: Array     # [N] i32  prompt (task instance) index in the batch
  valid: Array     # [N] bool False on padding, and only there
  end: Array       # [N] i32  0 goes on or was abandoned; 1 done; 2 cut off by a limit; 3 failed (no credit)
  reward: Columns  # channel -> [N] f32
  judged: Columns  # channel -> [N] bool, only where a verdict can be missing; absent = all True
  label: Columns   # name -> [N] i32, equal = same
  value: Columns   # name -> [N] f32 predictions and probe results at the step


@struct
class Tokens:
  """Model rows; several sequences may be packed in one, told apart by `segment`."""
  ids: Array       # [R, T] i32
  node: Array      # [R, T] i32  step of each token (an observation's tokens carry the step they precede), -1 on prompt and padding
  segment: Array   # [R, T] i32  sequence inside the row, -1 on padding; attention never crosses it
  position: Array  # [R, T] i32  position in its sequence
  sampled: Array   # [R, T] bool an action token of the trained policy's, or taken from a demonstration
  mask: Array      # [R, T] bool the loss mask: sampled, and owned by this row (a shared step is trained once)
  logp: Array      # [R, T] f32  behaviour log-probability at the sampling temperature, untruncated
  role: Columns    # block of the segmenter -> [R, T] bool
  stream: Columns  # name -> [R, T, ...]


@struct
class Batch:
  """The forest of one training step on the device: steps, tokens, and what is known of each prompt."""
  nodes: Nodes
  tokens: Tokens
  prompt: Columns  # name -> [G, ...]


@struct
class Out:
  """What a model says about a batch now; every column is 0 on tokens that were not asked for."""
  logp: Array      # [R, T] f32
  entropy: Array   # [R, T] f32
  value: Columns   # head -> [R, T] f32
  extra: Columns   # name -> [R, T] f32


@struct
class Advantages:
  """An estimator's answer when it also has targets for critics."""
  adv: Array       # [N] or [R, T]
  target: Columns  # head -> [N] or [R, T] regression targets


# ---- device: protocols ---------------------------------------------------------------------------------------------

class Stateful(NamedTuple):
  """A transform, estimator, selector or reward with memory; the state lives in `TrainState.carry`.

  `init() -> state`; `update(state, batch[, adv | keep]) -> (state, result)`.
  """
  init: Callable
  update: Callable


def _keep_state(state, out, batch, adv, key):
  del out, batch, adv, key
  return state, ()


class Loss(NamedTuple):
  """One term of an objective.

  `term(out, batch, adv, stats) -> [R, T]` is the loss of each token; `prepare(state, out, batch, adv, key) -> (state, stats)`
  runs once per minibatch, without gradient; `batch.tokens.mask` holds the kept tokens in both. `local` promises that `term`
  is elementwise in tokens. `heads`, `extra`: what it wants of `forward`. A sequence-level loss puts its value on every
  token of its sequence.
  """
  term: Callable
  prepare: Callable = _keep_state
  init: Callable = tuple
  local: bool = False
  heads: tuple = ()
  extra: Mapping[str, Callable] = {}


class DeviceStep(NamedTuple):
  """What an action brings, as arrays of one path."""
  end: Array       # [] i32 as in `Nodes`
  reward: Columns  # channel -> [] f32
  label: Columns   # name -> [] i32


class DeviceEnv(NamedTuple):
  """The protocol of `Env` on arrays, inside jit: one path at a time, batched by `vmap`.

  `reset(prompt, key) -> state`, `prompt` in [0, prompts); `observe(state) -> [] i32` in [0, observations); `step(state, action [U] i32,
  key) -> (state, DeviceStep)`, symbol u of an action in [0, actions[u]). A state is a pytree of arrays; what it says after an end does
  not matter. `right(state) -> [U]`: what an expert would do; `answer(state) -> []`: the last symbol of the answer to the prompt, -1 where
  there is none.
  """
  reset: Callable
  observe: Callable
  step: Callable
  right: Callable
  answer: Callable
  prompts: int
  turns: int           # no episode is longer
  observations: int
  actions: tuple


class Policy(NamedTuple):
  """A language model as three pure functions.

  `init(key) -> params`; `apply(params, ids, position, last, cache=None) -> (hidden [R, T, D], cache)`, token j is seen by i iff
  j <= i < last[j]; `head(params) -> [D, V]`. `config` is the record the functions were closed over (dims, vocabulary).
  `load(shardings) -> params`, where there are pretrained weights: those leaves of `init`'s tree that they hold.
  `trainable(path) -> bool` says of a leaf, 'layers/mlp/up/kernel', whether it is trained; None: all are. Those of heads always are.
  `heads`: name -> (init, apply) of a small part that reads hidden states (`rlx.models.heads`); others are linear values.
  """
  init: Callable
  apply: Callable
  head: Callable
  config: Any
  load: Callable | None = None
  trainable: Callable | None = None
  heads: Mapping[str, Any] = {}


class Model(NamedTuple):
  """A policy with its parameters and the tokenizer that belongs to it."""
  policy: Policy
  params: Any
  tokenizer: Any


# ---- host: environments --------------------------------------------------------------------------------------------

class Task(NamedTuple):
  """One prompt to be answered. `id` names it for ever; `data` is what the environment needs to start it."""
  id: str
  data: Any = None
  width: int | None = None   # rollouts wanted; None: what the explorer does by default
  start: Any = None          # a saved environment state to start from, or (state, Obs) where the first observation is another too


class Obs(NamedTuple):
  """What the environment says first."""
  text: str
  label: Mapping[str, Hashable] = {}   # of the step that will answer it: 'state' ...


class Action(NamedTuple):
  """What the policy said: the text is a view of the ids (special tokens included, but for one that ended a chat turn)."""
  text: str
  ids: Sequence[int] = ()


class Step(NamedTuple):
  """The environment's answer to an action. An observation may come with an end (it is shown, never answered)."""
  obs: str
  reward: Mapping[str, float] = {}
  end: int = 0                          # 0 goes on, 1 done, 2 cut off by a limit, 3 failed: no credit
  label: Mapping[str, Hashable] = {}    # of the step just taken
  metrics: Mapping[str, float] = {}     # of the step just taken; summed over the episode
  next: Mapping[str, Hashable] = {}     # labels of the step that will answer `obs`


class Env(Protocol):
  """A state is a picklable value, so it can be forked: `step` never changes the state it was given."""

  def tasks(self, split: str) -> Sequence[Task]: ...
  def reset(self, task: Task, seed: int) -> tuple[Any, Obs]: ...
  def step(self, state: Any, action: Action) -> tuple[Any, Step]: ...
  # optional: expert(task, seed) -> Iterator over action texts; it is sent each observation
  # optional: score(task, episode) -> {name: float}, what train and eval report beside the reward
  # optional: cut(state) -> Step, what an episode is paid that ran out of room, or of the run's max_steps


# ---- host: the forest ----------------------------------------------------------------------------------------------

@dataclasses.dataclass(eq=False)
class Node:
  """One step of a growing forest; the ids are the truth, the text is a view of them."""
  parent: int                     # index in the group, -1 at a first step
  obs: str                        # what was observed before it
  context: list[int]              # ids before the action: all of them where `fresh`, else what follows the previous action
  fresh: bool                     # a new row starts here (first step, or the context was rewritten)
  text: str
  ids: list[int]                  # action ids
  sampled: np.ndarray             # [len(ids)] bool, False on forced tokens and on another model's
  logp: np.ndarray                # [len(ids)] f32
  stream: dict[str, np.ndarray]   # name -> [len(ids)] f32: 'entropy', 'sampler_logp', 'version'
  stem: tuple[int, int] | None = None   # (node, at): the first `at` ids are that step's
  end: int = 0
  by: str = 'policy'
  branch: int = 0                 # which rollout of its prompt drew it
  greedy: bool = False            # drawn at temperature 0
  reward: dict[str, float | None] = dataclasses.field(default_factory=dict)   # None: no verdict
  label: dict[str, Hashable] = dataclasses.field(default_factory=dict)
  value: dict[str, float] = dataclasses.field(default_factory=dict)
  role: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)     # block -> [len(ids)] bool, written when cut
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(eq=False)
class Group:
  """A finished prompt: its task and the tree of steps that answered it. Parents stand before children."""
  task: Task
  nodes: list[Node]
  prompt: dict[str, float] = dataclasses.field(default_factory=dict)    # known of the prompt: 'p_answer', 'source' ...
  metrics: dict[str, float] = dataclasses.field(default_factory=dict)
  index: int = 0                   # number of the prompt in the run


class Episode(NamedTuple):
  """A path from a first step to where an episode ended."""
  task: Task
  nodes: Sequence[Node]
  steps: Sequence[int]             # their indices in the group

  @property
  def text(self) -> str:
    return ''.join(n.obs + n.text for n in self.nodes)


class Said(NamedTuple):
  """A part of a context that repeats the ids of an earlier action: `step` counts along the path."""
  step: int


class Message(NamedTuple):
  """A part of a context for a chat model: what somebody says, or the ids of an earlier action."""
  role: str                        # 'system' | 'user' | 'assistant' | 'tool'
  content: str | Said


class Variables(NamedTuple):
  """A part that sets variables of the chat template, such as `tools` and `enable_thinking`; plain JSON values."""
  values: Mapping[str, Any]


class Turn(NamedTuple):
  """One step of a path as a context sees it; the last one has no action yet."""
  obs: str
  text: str | None = None


# a context: (history: Sequence[Turn], task) -> list of str | Said | Message | Variables


class Expand(NamedTuple):
  """An explorer's wish: grow `width` branches below `node` (-1: from the prompt)."""
  node: int = -1
  at: int | None = None            # token offset inside `node`: branch there (the step is cut when packed)
  width: int = 1
  limit: int | None = None         # steps until the explorer is asked again; None: to the end of the episode
  suffix: str | None = None        # text forced at the start of the next action
  by: str = 'policy'               # which model speaks
  sampling: Mapping[str, float] | None = None   # overrides of temperature, top_k, top_p, min_p


class Score(NamedTuple):
  """An explorer's other wish: let the scorer `name` judge `nodes`; it stands in `view.value[name]` at the next call."""
  name: str
  nodes: Sequence[int]


class Cut(NamedTuple):
  """An explorer's third wish: the paths that stand at `nodes` end there, cut off (end 2), so that they are episodes and get credit.

  Only while nothing of the prompt grows (`View.running` is 0).
  """
  nodes: Sequence[int]             # steps that go on, below which nothing stands or grows


class View(NamedTuple):
  """What explorers and probes see of a prompt: tree columns, text, per-token numbers, rewards so far."""
  task: Task
  nodes: Sequence[Node]
  running: int                     # branches still growing
  value: Mapping[str, Mapping[int, float]]   # scorer -> node -> score


class Explorer(NamedTuple):
  """`init(task) -> S`; `expand(S, view, seed) -> (S, [Expand | Score | Cut])`; done = nothing returned and nothing running.

  `seed` is a tuple of ints for `np.random.default_rng`.
  """
  init: Callable
  expand: Callable


class Probe(NamedTuple):
  """A forced or sampled suffix below `node` (-1: the prompt), reduced at once to `value[name]`."""
  node: int
  name: str
  suffix: str
  score_from: int = 0              # characters of the suffix before the part that is scored
  samples: int = 0                 # 0: score the suffix; n: sample n continuations of it
  limit: int = 16                  # tokens a continuation
  reduce: str | Callable = 'mean_logp'   # 'mean_logp' | 'sum_logp' | 'mean_entropy', or (logp [L], entropy [L], None where forced) -> float


class Curriculum(NamedTuple):
  """`init() -> S`; `sample(S, n, key) -> (S, [Task])`; `update(S, groups) -> S`. S is a picklable, JSON-able value."""
  init: Callable
  sample: Callable
  update: Callable


class Span(NamedTuple):
  """A block of an action found by a segmenter: tokens [start, stop); with `cut` a new node starts and ends with it."""
  start: int
  stop: int
  roles: frozenset = frozenset()
  cut: bool = False


class Row(NamedTuple):
  """One sequence to be trained: prefix ids, then the steps; a step is trained by the row that owns it."""
  prefix: Sequence[int]
  nodes: Sequence[int]
  owns: Sequence[bool]


Source = Callable[[], Iterator[Group]]
