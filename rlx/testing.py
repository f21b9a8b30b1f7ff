"""What every estimator promises, as checks: batches rich enough for any method, changes that must not matter, `PROPERTIES`.

`tests/estimators/test_properties.py` runs them on every method of `rlx/estimators`; on one from outside with

```
pytest --method my_lab.mod.fn
```

A method that reads a column these batches lack: add it to the tables below. A module may say `needs = (...)`:
'chains' for a method that runs along rows: no shared steps, and each path whole in one sequence;
'tokens' for a modulator that is handed an advantage a token, `[R, T]`, instead of a step, `[N]`;
'chance' for a method that draws at random: another batch is another draw, so `SAME_DRAW` is not asked of it.
"""

import dataclasses
import functools
import inspect
import sys
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config, masked, toy, tree
from rlx.types import Advantages, Batch, Stateful

# ---- columns a method may read: name -> how it is drawn -------------------------------------------------------------

few = lambda k: lambda rng, n: rng.integers(0, k, n)
COIN, NORMAL, UNIFORM = few(2), lambda rng, n: rng.normal(size=n), lambda rng, n: rng.uniform(size=n)
LOGP = lambda rng, n: -rng.exponential(size=n)
REWARDS = dict(task=COIN, answer=COIN, schema=COIN, format=NORMAL, turn=NORMAL, session=NORMAL, info_gain=NORMAL,
               prm=UNIFORM, meta=COIN, process=lambda rng, n: -COIN(rng, n))
LABELS = dict(state=few(3), action=few(2), next=few(3), switch=few(2),
              turn=lambda rng, n: rng.integers(0, 3, n) // 2,      # uneven: CM2 asks for five steps of a turn
              agent=few(2), select=few(2), schema=few(2), source=few(1), tag=few(3), drawn=lambda rng, n: rng.permutation(n) % 2,
              answer=few(2), tool=few(2))
JUDGED = dict(prm=lambda rng, n: rng.uniform(size=n) < .8)
VALUES = dict(value=NORMAL, low=NORMAL, high=NORMAL, term=NORMAL, p_answer=UNIFORM, conf=UNIFORM, acc=UNIFORM, potential=NORMAL,
              prover=UNIFORM)
STREAMS = dict(entropy=UNIFORM, old_logp=LOGP, ref_logp=LOGP, prm_logp=LOGP, sampler_logp=LOGP, version=few(3), reward=NORMAL,
               value=NORMAL, **{f'value/{head}': NORMAL for head in ('value', 'critic', 'low', 'high', 'term')})
ROLES = dict.fromkeys(('action', 'plan', 'switch', 'think', 'answer'), COIN)
PROMPT = dict(source=few(2), difficulty=UNIFORM, p_answer=UNIFORM, prior=UNIFORM, prover=UNIFORM)

# ---- the forest: each prompt is (parents within the prompt, ends) ----------------------------------------------------

TREE = ((-1, 0, 1, 1, 0, 4, 0, 6, -1), (0, 0, 1, 1, 0, 1, 0, 0, 0))      # three paths; 6-7 and 8 were abandoned
CHAINS = ((-1, 0, 1, -1, 3, -1, -1, 6, -1), (0, 0, 1, 0, 1, 1, 0, 0, 0))
MIXED = ((-1, 0, 1, -1, 3, -1, 5), (0, 0, 1, 0, 2, 0, 3))                # done, cut off, failed
ALONE = ((-1, 0), (0, 1))                                                # a group of one
EQUAL = ((-1, -1, 1), (1, 0, 1))                                         # no variance: every reward is 0
LOST = ((-1, 0), (0, 3))                                                 # nothing to learn from
SHAPE = (32, 16, 40)                                                     # N, R, T: all batches compile once


def batch(seed: int = 0, *, chains: bool = False) -> Batch:
  """Five prompts with every case there is, all columns filled at random, two sequences a row, padded to `SHAPE`."""
  prompts = (CHAINS if chains else TREE, MIXED, ALONE, EQUAL, LOST)
  first = np.cumsum([0] + [len(p) for p, _ in prompts])
  parent = [j + f if j >= 0 else -1 for (p, _), f in zip(prompts, first, strict=False) for j in p]
  group = np.repeat(np.arange(len(prompts)), np.diff(first))
  n = len(parent)
  # each column is drawn by its own name, so that a new one changes no other; with 5 the first prompts' rewards differ
  rng = lambda name: np.random.default_rng((seed, 5, zlib.crc32(name.encode())))
  draw = lambda table, size=n: {k: make(rng(k), size) for k, make in table.items()}
  end = [e for _, ends in prompts for e in ends]
  b = toy.batch(parent, group=group, end=end, label=draw(LABELS), value=draw(VALUES), judged=draw(JUDGED), role=draw(ROLES),
                n_tokens=1 + np.arange(n) % 3, n_obs=np.arange(n) % 2, pack=2,
                prompt={k: x.astype(np.float32) for k, x in draw(PROMPT, len(prompts)).items()},
                **{k: np.where(group == 3, 0, x) for k, x in draw(REWARDS).items()})
  size = b.tokens.node.shape
  numbers = draw(STREAMS | dict(logp=LOGP), size[0] * size[1])
  stream = {k: jnp.asarray(x.reshape(size), jnp.float32) for k, x in numbers.items()}
  tokens = dataclasses.replace(b.tokens, logp=stream.pop('logp'), stream=stream)
  tokens = jax.tree.map(lambda x: x if x.dtype != jnp.float32 else jnp.where(b.tokens.sampled, x, 0.), tokens)
  return pad(dataclasses.replace(b, tokens=tokens), *SHAPE)


# ---- changes: each returns the batch and where its trained tokens stood before ---------------------------------------

def pad(b: Batch, nodes: int, rows: int, width: int) -> Batch:
  """The batch with its tables filled up to the given sizes."""
  def to(table, size, minus):
    def fill(path, x):
      value = -1 if path[0].name in minus else False if x.dtype == bool else 0
      return jnp.pad(x, [(0, s - k) for s, k in zip(size, x.shape, strict=False)], constant_values=value)
    return jax.tree_util.tree_map_with_path(fill, table)
  tokens = to(b.tokens, (rows, width), ('node', 'segment'))
  return dataclasses.replace(b, nodes=to(b.nodes, (nodes,), ('parent',)), tokens=tokens)


def reorder(b: Batch, steps: Sequence[int]) -> Batch:
  """The batch with only these steps, in this order (parents first, groups together); other tokens become padding."""
  steps = np.asarray(steps)
  size = b.nodes.parent.shape[0]
  new = np.full(size + 1, -1)
  new[steps] = np.arange(len(steps))
  new = jnp.asarray(new, jnp.int32)           # the last entry serves -1
  nodes = jax.tree.map(lambda x: x[steps], b.nodes)
  named = {}
  group = [named.setdefault(g, len(named)) for g in nodes.group.tolist()]
  nodes = dataclasses.replace(nodes, parent=new[nodes.parent], group=jnp.asarray(group, jnp.int32))
  t = b.tokens
  gone = (t.node >= 0) & (new[t.node] < 0)
  blank = lambda x: jnp.where(gone, jnp.zeros((), x.dtype), x)
  tokens = dataclasses.replace(jax.tree.map(blank, t), node=new[t.node], segment=jnp.where(gone, -1, t.segment))
  order = jnp.asarray([*named, *(g for g in range(len(b.prompt['source'])) if g not in named)])
  return pad(Batch(nodes=nodes, tokens=tokens, prompt={k: x[order] for k, x in b.prompt.items()}), size, *t.node.shape)


def lay_out(b: Batch, *, pack: int, alone: bool = False) -> tuple[Batch, np.ndarray]:
  """The same steps in other rows: `pack` sequences a row, last sequence first.

  With `alone` each step is trained in a sequence of its own, behind a prefix that others train: a chain as a tree.

  Returns:
    The batch, and `[R, T]` the place in the old rows of each token, -1 on padding.
  """
  t = jax.tree.map(np.asarray, b.tokens)
  rows, width = t.node.shape
  sequences = []
  for r in range(rows):
    for s in range(t.segment[r].max() + 1):
      at = r * width + np.flatnonzero(t.segment[r] == s)
      node, mask = t.node.ravel()[at], t.mask.ravel()[at]
      trained = list(dict.fromkeys(node[mask])) if alone else [None]
      for step in trained:
        stop = len(at) if step is None else np.flatnonzero(node == step)[-1] + 1
        sequences.append((at[:stop], mask[:stop] & (True if step is None else node[:stop] == step)))
  sequences = sequences[::-1]
  out = np.full((3, *SHAPE[1:]), -1)           # source, segment, position
  own = np.zeros(SHAPE[1:], bool)
  for r in range(0, len(sequences), pack):
    i = 0
    for s, (at, mask) in enumerate(sequences[r:r + pack]):
      j = i + len(at)
      out[:, r // pack, i:j] = at, np.full(len(at), s), np.arange(len(at))
      own[r // pack, i:j] = mask
      i = j
  source, segment, position = out
  take = lambda x: jnp.asarray(np.where(source >= 0, x.ravel()[source], np.zeros((), x.dtype)))
  node = np.where(source >= 0, t.node.ravel()[source], -1)
  ints = {k: jnp.asarray(x, jnp.int32) for k, x in dict(node=node, segment=segment, position=np.maximum(position, 0)).items()}
  tokens = dataclasses.replace(jax.tree.map(take, t), mask=jnp.asarray(own), **ints)
  return dataclasses.replace(b, tokens=tokens), source


# ---- a method under study --------------------------------------------------------------------------------------------

class Study(NamedTuple):
  """A method made callable; both forms give (adv `[R, T]`, {head: target `[R, T]`}, adv as it was answered)."""
  run: Callable      # jitted, floats traced
  plain: Callable    # not jitted
  traces: list       # one entry for each time `run` was traced
  chains: bool       # it needs chains
  chance: bool       # it draws at random

  def batch(self, seed: int = 0) -> Batch:
    return batch(seed, chains=self.chains)


def study(method: str | Callable) -> Study:
  """A method by name, dotted name or itself; its floats are traced in `run`, so a branch on one of them fails here.

  Args:
    method: an estimator, a modulator (second parameter `adv`; it is handed GRPO's), or a factory of one or of a `Stateful`.
  """
  fn = config.resolve('estimator', method) if isinstance(method, str) else method
  needs = getattr(sys.modules.get(fn.__module__), 'needs', ())
  if set(needs) - {'chains', 'tokens', 'chance'}:
    raise ValueError(f"needs is made of 'chains', 'tokens' and 'chance', not {needs}.")
  parameters = inspect.signature(fn).parameters.values()
  floats = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY and isinstance(p.default, float)}
  bound = config.build('estimator', dict(name=fn, **floats))
  factory = all(p.kind is p.KEYWORD_ONLY for p in parameters)

  def answer(b, floats):
    call = functools.partial(bound.call, floats=floats, step=jnp.int32(7), key=jax.random.key(0))
    if factory:
      made = call()
      call = (lambda *args: made.update(made.init(), *args)[1]) if isinstance(made, Stateful) else made
      takes_adv = 'adv' in inspect.signature(made.update if isinstance(made, Stateful) else made).parameters
    else:
      takes_adv = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD][1:2] == ['adv']
    if takes_adv:
      before = config.resolve('estimator', 'grpo')(b)
      out = call(b, masked.to_tokens(before, b.tokens) if 'tokens' in needs else before)
    else:
      out = call(b)
    out = out if isinstance(out, Advantages) else Advantages(adv=out)
    for x in (out.adv, *out.target.values()):
      assert x.shape in (b.nodes.parent.shape, b.tokens.node.shape), f'shape {x.shape} is neither [N] nor [R, T]'
    send = lambda x: masked.to_tokens(x, b.tokens) if x.ndim == 1 else x
    return send(out.adv), {k: send(x) for k, x in out.target.items()}, out.adv

  traces = []

  @jax.jit
  def run(b, floats):
    traces.append(1)
    return answer(b, floats)

  return Study(lambda b: run(b, bound.floats()), lambda b: answer(b, floats), traces, 'chains' in needs, 'chance' in needs)


def close(got, want, what: str) -> None:
  """Equal within 2e-5 of the largest entry (sums run in another order)."""
  got, want = np.asarray(got), np.asarray(want)
  size = max(1., float(np.abs(want).max(initial=0)))
  np.testing.assert_allclose(got, want, atol=2e-5 * size, rtol=0, err_msg=what)


def answers(out) -> dict[str, np.ndarray]:
  """Advantage and targets by name."""
  return {'adv': np.asarray(out[0]), **{f'target {k}': np.asarray(x) for k, x in out[1].items()}}


def dead(b: Batch) -> np.ndarray:
  """`[N]` bool: steps no ended episode runs through, by a plain loop."""
  parent, end, valid = map(np.asarray, (b.nodes.parent, b.nodes.end, b.nodes.valid))
  out = np.ones(len(parent), bool)
  for i in np.flatnonzero(valid & ((end == 1) | (end == 2))):
    while i >= 0:
      out[i], i = False, parent[i]
  return out & valid


# ---- the properties --------------------------------------------------------------------------------------------------

def plain_numbers(s: Study) -> None:
  """Finite f32, not all 0; 0 where the loss mask is False and on padding."""
  b = s.batch()
  out = s.run(b)
  for name, x in answers(out).items():
    assert x.dtype == np.float32, f'{name} is {x.dtype}'
    assert np.isfinite(x).all(), f'{name} is not finite'
    assert not x[~np.asarray(b.tokens.mask)].any(), f'{name} is not 0 where the mask is False'
  assert np.asarray(out[0]).any(), 'all advantages are 0'
  if out[2].ndim == 1:
    assert not np.asarray(out[2])[~np.asarray(b.nodes.valid)].any(), 'the advantage of padded steps is not 0'


def jit_changes_nothing(s: Study) -> None:
  """Jitted with traced floats or not: the same."""
  b = s.batch()
  for (name, got), want in zip(answers(s.run(b)).items(), answers(s.plain(b)).values(), strict=True):
    close(got, want, f'{name}: jit against no jit')


def padding_changes_nothing(s: Study) -> None:
  """More padding, and other numbers in the padding: the same, and 0 there."""
  b = s.batch()
  n, t = b.nodes, b.tokens
  off = lambda where, x: jnp.where(where.reshape(where.shape + (1,) * (x.ndim - where.ndim)), x, jnp.full_like(x, 3))
  nodes = dataclasses.replace(n, label={k: off(n.valid, x) for k, x in n.label.items()},
                              value={k: off(n.valid, x) for k, x in n.value.items()})
  tokens = dataclasses.replace(t, ids=off(t.segment >= 0, t.ids), logp=off(t.sampled, t.logp),
                               stream={k: off(t.sampled, x) for k, x in t.stream.items()})
  want = answers(s.run(b))
  for name, got in answers(s.run(dataclasses.replace(b, nodes=nodes, tokens=tokens))).items():
    close(got, want[name], f'{name}: other numbers in the padding')
  big = pad(b, SHAPE[0] + 8, SHAPE[1] + 2, SHAPE[2] + 8)
  for name, got in answers(s.run(big)).items():
    close(got, np.pad(want[name], ((0, 2), (0, 8))), f'{name}: more padding')


def order_of_prompts_does_not_matter(s: Study) -> None:
  """Prompts in another order give the same advantages in that order."""
  b = s.batch()
  group = np.asarray(b.nodes.group)[np.asarray(b.nodes.valid)]
  steps = np.concatenate([np.flatnonzero(group == g) for g in (3, 1, 4, 0, 2)])
  want = answers(s.run(b))
  for name, got in answers(s.run(reorder(b, steps))).items():
    close(got, want[name], f'{name}: prompts in another order')


def dead_ends_get_nothing(s: Study) -> None:
  """Abandoned branches and failed episodes get 0, and without them the rest is the same."""
  b = s.batch()
  gone = dead(b)
  want = answers(s.run(b))
  without = reorder(b, np.flatnonzero(np.asarray(b.nodes.valid) & ~gone))
  off = gone[np.asarray(b.tokens.node)] & np.asarray(b.tokens.mask)
  for name, got in answers(s.run(without)).items():
    assert not want[name][off].any(), f'{name} of an abandoned branch or a failed episode is not 0'
    close(got, want[name], f'{name}: with abandoned branches and failed episodes, and without')


def degenerate_groups_are_finite(s: Study) -> None:
  """Equal rewards everywhere, and no episode that ended: finite, and 0 where nothing ended."""
  b = s.batch()
  nodes = b.nodes
  same = jnp.float32(.3) * tree.ended(nodes).astype(jnp.float32)
  flat = dataclasses.replace(nodes, reward=dict.fromkeys(nodes.reward, same))
  lost = dataclasses.replace(nodes, end=jnp.where(nodes.end > 0, jnp.full_like(nodes.end, 3), nodes.end))
  for name, x in answers(s.run(dataclasses.replace(b, nodes=flat))).items():
    assert np.isfinite(x).all() and np.abs(x).max() < 1e3, f'{name} where no group has variance: {np.abs(x).max()}'
  for name, x in answers(s.run(dataclasses.replace(b, nodes=lost))).items():
    assert not x.any(), f'{name} is not 0 where no episode ended'


def rows_do_not_matter(s: Study) -> None:
  """Packed as not packed, in any order; a chain is a tree of one child: the same behind prefixes other rows train."""
  b = s.batch()
  want = answers(s.run(b))
  layouts = [lay_out(b, pack=1), lay_out(b, pack=3)] + ([] if s.chains else [lay_out(b, pack=2, alone=True)])
  for other, source in layouts:
    mask = np.asarray(other.tokens.mask)
    assert sorted(source[mask]) == np.flatnonzero(np.asarray(b.tokens.mask)).tolist()
    for name, got in answers(s.run(other)).items():
      close(got[mask], want[name].ravel()[source[mask]], f'{name}: other rows')


def new_values_do_not_retrace(s: Study) -> None:
  """A batch of the same shape with other numbers compiles nothing."""
  s.run(s.batch())
  before = len(s.traces)
  s.run(s.batch(1))
  assert len(s.traces) == before, 'traced again for other values'


PROPERTIES = (plain_numbers, jit_changes_nothing, padding_changes_nothing, order_of_prompts_does_not_matter,
              dead_ends_get_nothing, degenerate_groups_are_finite, rows_do_not_matter, new_values_do_not_retrace)
SAME_DRAW = (order_of_prompts_does_not_matter, dead_ends_get_nothing)   # these compare two batches
