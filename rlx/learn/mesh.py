"""Where arrays live: a mesh of devices with axes data, fsdp and tensor, and the shardings of parameters and batches.

Token rows are split over ('data', 'fsdp'); the node table is on every device, so that estimators see whole groups and
contain no collective. Parameters follow a table of rules, first match wins, as in big_vision's `sharding.py`. The meshes
have `AxisType.Auto` axes: the compiler places what these shardings leave open. The same code runs on one device.
"""

from collections.abc import Sequence
import dataclasses
import functools
import logging
import math
import re
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

from rlx.types import Batch

AXES = ('data', 'fsdp', 'tensor')
ROWS = ('data', 'fsdp')

Tactic = str | tuple | None


def create(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence | None = None) -> Mesh:
  """A mesh of data x fsdp x tensor devices, the first of `devices` (by default all of this run).

  Raises:
    ValueError: a size below 1, or more devices asked for than there are.
  """
  sizes = (data, fsdp, tensor)
  devices = list(jax.devices() if devices is None else devices)
  asked = ' x '.join(f'{n}={s}' for n, s in zip(AXES, sizes, strict=True))
  if min(sizes) < 1:
    raise ValueError(f'the mesh {asked} has a size below 1; every axis needs at least 1')
  if math.prod(sizes) > len(devices):
    raise ValueError(f'the mesh {asked} needs {math.prod(sizes)} devices, but there are {len(devices)} '
                     f'({devices[0].device_kind if devices else "none"}); lower one of its sizes')
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:math.prod(sizes)])


def replicated(mesh: Mesh) -> NamedSharding:
  """The whole array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def over_rows(mesh: Mesh) -> NamedSharding:
  """Rows split over data and fsdp."""
  return NamedSharding(mesh, PartitionSpec(ROWS))


def keep_rows(tree: Any, mesh: Mesh | None, axis: int = 0) -> Any:
  """Inside a jitted function: the arrays, with dim `axis` split over data and fsdp as rows are; without a mesh as they come.

  A gather of rows may end on every device, and what is computed from it then too; so the compiler is told.
  """
  ways = 1 if mesh is None else math.prod(mesh.shape[a] for a in ROWS)
  if ways == 1:
    return tree
  where = NamedSharding(mesh, PartitionSpec(*(None,) * axis, ROWS))
  return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, where) if x.shape[axis] % ways == 0 else x, tree)


# ---- parameters ----------------------------------------------------------------------------------------------------

def shard_params(params: Any, rules: Sequence[tuple[str, Tactic]], mesh: Mesh) -> Any:
  """The sharding of each leaf of a tree of arrays or shapes (`jax.eval_shape`), and so of an optimizer's state too.

  The first rule whose regular expression matches the whole path ('layers/attention/q/kernel') decides:
    None: replicated, as where no rule matches.
    'fsdp': the largest dim that divides is split over that axis.
    ('fsdp', 'tensor'): axis (None, or a tuple of axes) of each of the *last* dims, since stacked layers stand in front.
  A dim that does not divide stays whole; this is logged once a leaf.

  Raises:
    ValueError: a rule names an axis the mesh does not have.
  """
  for pattern, tactic in rules:
    unknown = set(_axes(tactic)) - set(mesh.axis_names)
    if unknown:
      raise ValueError(f"sharding rule '{pattern}' names the axis {sorted(unknown)}; the mesh has {mesh.axis_names}")
  compiled = [(re.compile(pattern), tactic) for pattern, tactic in rules]

  def leaf(path, x):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    tactic = next((t for r, t in compiled if r.fullmatch(name)), None)
    return NamedSharding(mesh, _spec(name, tuple(x.shape), tactic, mesh))
  return jax.tree_util.tree_map_with_path(leaf, params)


def _axes(tactic: Tactic) -> tuple[str, ...]:
  if tactic is None or isinstance(tactic, str):
    return () if tactic is None else (tactic,)
  return tuple(a for entry in tactic for a in _axes(entry))


def _spec(name: str, shape: tuple[int, ...], tactic: Tactic, mesh: Mesh) -> PartitionSpec:
  ways = lambda axes: math.prod(mesh.shape[a] for a in _axes(axes))
  spec = [None] * len(shape)
  if isinstance(tactic, str):
    dims = [d for d in range(len(shape)) if shape[d] % ways(tactic) == 0]
    if dims:
      spec[max(dims, key=lambda d: shape[d])] = tactic
    elif shape:
      _log_whole(name, shape, tactic, ways(tactic))
  elif tactic:
    for d, axes in zip(range(-1, -len(shape) - 1, -1), reversed(tactic)):
      if shape[d] % ways(axes) == 0:
        spec[d] = axes
      else:
        _log_whole(name, shape, axes, ways(axes))
  return PartitionSpec(*spec)


@functools.cache
def _log_whole(name, shape, axes, ways):
  logging.getLogger(__name__).info('%s %s stays whole: no division over %s = %d', name, shape, axes, ways)


# ---- batches -------------------------------------------------------------------------------------------------------

def shard_batch(batch: Batch, mesh: Mesh) -> Batch:
  """The sharding of each column of a batch of arrays or shapes: rows are split, steps and prompts are everywhere.

  Raises:
    ValueError: rows that do not divide over data x fsdp.
  """
  rows, ways = batch.tokens.ids.shape[0], math.prod(mesh.shape[a] for a in ROWS)
  if rows % ways:
    raise ValueError(f'{rows} rows do not divide over data={mesh.shape["data"]} x fsdp={mesh.shape["fsdp"]}; '
                     f'give the bucket a multiple of {ways} rows')
  everywhere, split = replicated(mesh), over_rows(mesh)
  return Batch(nodes=jax.tree.map(lambda _: everywhere, batch.nodes), tokens=jax.tree.map(lambda _: split, batch.tokens),
               prompt=jax.tree.map(lambda _: everywhere, batch.prompt))


def offset(batch: Batch, process: int) -> Batch:
  """The batch of one host with the indices it has in the batch of all: those of host p begin at p times the host's sizes.

  Labels stay: they are compared within a prompt. Padding keeps parent -1, group 0 and node -1. Without a prompt column
  there is no `G` to be seen, and groups count in steps of `N`, which none exceeds.
  """
  n, t = batch.nodes, batch.tokens
  size = n.parent.shape[0]
  prompts = min((x.shape[0] for x in jax.tree.leaves(batch.prompt)), default=size)
  xp = np if isinstance(n.parent, np.ndarray) else jnp
  shift = lambda x, where, by: xp.where(where, x + np.asarray(by, x.dtype), x)
  nodes = dataclasses.replace(n, parent=shift(n.parent, n.parent >= 0, process * size),
                              group=shift(n.group, n.valid, process * prompts))
  return dataclasses.replace(batch, nodes=nodes, tokens=dataclasses.replace(
      t, node=shift(t.node, t.node >= 0, process * size)))


def globalise(batch: Batch, mesh: Mesh) -> Batch:
  """The batch of all hosts from this host's own: node tables and prompts are gathered, rows stay where they were sampled.

  Every host must bring a batch of the same bucket. With one process the batch is returned as it came.
  """
  if jax.process_count() == 1:
    return batch
  local = offset(batch, jax.process_index())
  everywhere, split = replicated(mesh), over_rows(mesh)

  def gather(x):
    whole = multihost_utils.process_allgather(np.asarray(x), tiled=True)
    return jax.make_array_from_process_local_data(everywhere, whole, whole.shape)
  rows = lambda x: jax.make_array_from_process_local_data(split, np.asarray(x))
  nodes, prompt = jax.tree.map(gather, (local.nodes, local.prompt))
  return Batch(nodes=nodes, tokens=jax.tree.map(rows, local.tokens), prompt=prompt)
