"""The jitted functions of one phase: transforms, credit, updates; and the choice of rows for minibatches on the host."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.learn import mesh as meshes
from rlx.learn import objective, partition, state
from rlx.masked import node_mean
from rlx.types import Batch, Model


class Functions(NamedTuple):
  """What a phase runs on the device."""
  transform: Callable          # (params, memory, batch, hypers, step, key) -> (batch, memory); here and below key is the run's, folded with the step inside
  assess: Mapping[str, Callable]    # learner -> (params, carry, batch, hypers, step, key) -> (batch, credits, carry, alive [R], shown)
  update: Mapping[str, Callable]    # learner, bucket -> state.update
  mesh: jax.sharding.Mesh


def make(learners: Sequence, transforms: Sequence, models: Mapping[str, Model], mesh: jax.sharding.Mesh, buckets: Sequence, *,
         temperature: float, implementation: str | None = None) -> Functions:
  """Closes over everything static; nothing is compiled yet.

  Args:
    learners: `assemble.Learner`s.
    transforms: bound transforms, in order.
    models: name -> model; of the parameters only the places are used, they come as arguments.
    mesh: where rows and parameters live.
    buckets: the shapes; each has its own `actions`.
    temperature: of the behaviour, so that `forward` reproduces its log-probabilities.
    implementation: of `linear_logp`.
  """
  temperature = float(temperature) or 1.
  held = {(b.rows, b.width): b.actions for b in buckets}
  filled = lambda params: {n: m._replace(params=params[n]) for n, m in models.items()}

  def transform(params, memory, batch, hypers, step, key):
    key, actions, memory = jax.random.fold_in(key, step), held.get(batch.tokens.ids.shape), list(memory)
    for i, (bound, hyper) in enumerate(zip(transforms, hypers, strict=True)):
      memory[i], batch = objective.apply(bound, hyper, memory[i], batch, models=filled(params), step=step, key=jax.random.fold_in(key, i),
                                         actions=actions)
    return batch, memory

  def assess(learner):
    def run(params, carry, batch, hypers, step, key):
      batch, credits, carry = objective.credit(learner.tracks, hypers, carry, batch, step=step, key=jax.random.fold_in(key, step),
                                               models=filled(params))
      alive = jnp.zeros(batch.tokens.mask.shape[0], bool)
      for c in credits.values():
        alive |= jnp.any(c.keep, axis=1)
      return batch, credits, carry, alive, {name: node_mean(c.adv, batch) for name, c in credits.items()}
    carry = None if where[learner.name] is None else where[learner.name].carry
    return jax.jit(run, out_shardings=(None, None, carry, None, None))

  where = {l.name: state.shardings(partition.trained(models[l.model].policy, models[l.model].params), l.tx, l.tracks) for l in learners}
  return Functions(
      jax.jit(transform) if transforms else None, {l.name: assess(l) for l in learners},
      {(l.name, b): state.update(l.tracks, models[l.model].policy, l.tx, temperature=temperature, microbatch=l.microbatch,
                                 actions=b.actions, implementation=implementation, where=where[l.name])
       for l in learners for b in buckets}, mesh)


def put(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
  """A packed batch on the devices: rows split, steps and prompts everywhere. One device takes it with its first call."""
  if mesh.size == 1:
    return batch
  if jax.process_count() > 1:
    return meshes.globalise(batch, mesh)
  return jax.device_put(batch, meshes.shard_batch(batch, mesh))


def minibatches(alive: np.ndarray, groups: np.ndarray, *, size: int, unit: str, compact: bool, seed: Sequence[int]) -> list[np.ndarray]:
  """Rows of each minibatch, `[size]` each, padded with -1: as few as hold all rows, of nearly equal size, in random order.

  Args:
    alive: `[R]` rows with a kept token; the others are left out where `compact`.
    groups: `[R]` what belongs together of each row (`row_groups`), -1 on empty ones.
    size: rows a minibatch.
    unit: 'row', 'path' or 'group': rows of a path, of a prompt stay together.
    compact: leave rows without a kept token out.
    seed: of the order.

  Raises:
    ValueError: with unit='path' or 'group', more rows that belong together than a minibatch has.
  """
  rows = np.flatnonzero(alive if compact else groups >= 0)
  if not len(rows):
    return []
  draw = np.random.default_rng(seed)
  if unit == 'row':
    rows = draw.permutation(rows)
    parts = np.array_split(rows, -(-len(rows) // size))
  else:
    units = [rows[groups[rows] == g] for g in draw.permutation(np.unique(groups[rows]))]
    most = max(map(len, units))
    if most > size:
      what = dict(path='path', group='prompt')[unit]
      raise ValueError(f"a {what}, with those it shares rows with, has {most} rows, a minibatch {size}: raise minibatch, "
                       "or set unit='row'.")
    units.sort(key=len, reverse=True)
    count = -(-len(rows) // size)
    while (parts := _spread(units, count, size)) is None:
      count += 1
    parts = [parts[i] for i in draw.permutation(count)]
  out = []
  for part in parts:
    rows = np.full(size, -1, np.int32)
    rows[:len(part)] = part
    out.append(rows)
  return out


def _spread(units, count, size):
  """Each unit to the part that has the fewest rows; None if one would get more than `size`."""
  parts = [[] for _ in range(count)]
  for unit in units:
    part = min(parts, key=len)
    if len(part) + len(unit) > size:
      return None
    part.extend(unit)
  return parts


def learn(fns: Functions, learner: Any, train_state: state.TrainState, params: Mapping[str, Any], batch: Batch, packed: Any, *,
          step: int, key: jax.Array, compact: bool = True, stages: Callable = lambda name: None) -> tuple:
  """One learner's work on one batch: credit once, then its epochs of minibatches. `params`: model -> all of its parameters.

  Returns:
    (state, metrics of each update, track -> advantages of each group's steps).
  """
  hypers = objective.floats(learner.tracks, step)
  batch, credits, carry, alive, shown = fns.assess[learner.name](params, train_state.carry, batch, hypers, np.int32(step), key)
  alive, shown = jax.device_get((alive, shown))
  train_state = dataclasses.replace(train_state, carry=carry)
  compact = compact and not any(getattr(t.average.fn, 'whole', False) for t in learner.tracks.values())
  size = min(learner.minibatch, packed.bucket.rows)       # more would be padding
  if learner.microbatch and size % min(learner.microbatch, size):
    size = learner.minibatch
  groups = row_groups(packed, learner.unit)
  base = partition.rest(params[learner.model], train_state.params)
  results = []
  for epoch in range(learner.epochs):
    seed = (*np.asarray(jax.random.key_data(key)).tolist(), step, epoch)
    for rows in minibatches(alive, groups, size=size, unit=learner.unit, compact=compact, seed=seed):
      stages('update')
      train_state, seen = fns.update[learner.name, packed.bucket](train_state, batch, credits, rows, hypers, key, base)
      results.append(seen)
  per_group = {name: [adv[f:f + len(g.nodes)].tolist() for g, f in zip(packed.groups, packed.first, strict=True)]
               for name, adv in shown.items()}
  return train_state, results, per_group


def row_groups(packed: Any, unit: str = 'group') -> np.ndarray:
  """`[R]` names what belongs together: equal for rows that hold the same prompt ('group') or paths with the same first step ('path'), or
  are linked by others that do; 0 for all with 'row'; -1 on empty rows."""
  node, prompt = packed.batch.tokens.node, packed.batch.nodes.group
  if unit == 'row':
    return np.where((node >= 0).any(1), 0, -1)
  if unit == 'path':
    prompt = np.arange(len(prompt))
    for i, parent in enumerate(packed.batch.nodes.parent):      # parents stand before children
      prompt[i] = prompt[parent] if parent >= 0 else i
  rows, at = np.nonzero(node >= 0)
  held = np.unique(np.stack([rows, prompt[node[rows, at]]]), axis=1)
  one_of = np.arange(len(prompt))
  for r in np.unique(held[0]):
    linked = one_of[held[1, held[0] == r]]
    one_of[np.isin(one_of, linked)] = linked.min()
  out = np.full(len(node), -1)
  out[held[0]] = one_of[held[1]]
  return out


def compiles(fns: Functions) -> int:
  """Programs compiled so far."""
  made = [fns.transform, *fns.assess.values(), *fns.update.values()]
  return sum(f._cache_size() for f in made if f is not None)


def averaged(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
  """Means over updates, weighted by their kept tokens; counts are added. The names of a second learner have a prefix: 'critic/tokens'.

  An update that was skipped is counted and has no say in the means, unless all were.
  """
  if not results:
    return dict(updates=0.)
  kept = lambda r: min((k for k in r if k == 'tokens' or k.endswith('/tokens')), key=len)
  skipped = lambda r: any(float(v) for k, v in r.items() if k.endswith('skipped'))
  out = {}
  for k in dict.fromkeys(k for r in results for k in r if k != kept(r)):
    mine = [r for r in results if k in r]
    if k.endswith('skipped'):
      out[k] = float(sum(float(r[k]) for r in mine))
    else:
      value, w = np.asarray([(float(r[k]), float(r[kept(r)])) for r in [r for r in mine if not skipped(r)] or mine]).T
      out[k] = float((value * w).sum() / max(w.sum(), 1e-9))
  out['updates'] = float(len(results))
  return out
