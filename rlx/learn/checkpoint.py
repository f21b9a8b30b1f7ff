"""Checkpoints: all that decides the future of a run, in one folder that is there completely or not at all.

  <folder>/00000120/arrays/      orbax: every array of the state, under its path
  <folder>/00000120/index.json   the leaves in order (path, kind, shape, dtype), python numbers, the metric
  <folder>/00000120/meta.json    what else the caller keeps

All of it is written to `tmp-120` and renamed, so a process killed in between leaves a `tmp-` folder, which nothing reads
and the next `save` (or `clean`) removes. Nothing is pickled. With several hosts all of them call `save`.
"""

from collections.abc import Mapping
import contextlib
import json
import logging
import math
import os
import re
import shutil
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

_NAME = re.compile(r'(\d+)(?:\.(\d+))?')   # '00000120', and where it was replaced '00000120.1'
_PYTHON = {'bool': bool, 'int': int, 'float': float, 'str': str}


class CheckpointError(ValueError):
  """A checkpoint that is not there, does not fit, or cannot be written; the message says which in one sentence."""


def save(folder: str | os.PathLike, step: int, state: Any, *, meta: Mapping = {}, keep: int = 2,
         best: float | None = None) -> None:
  """Writes one checkpoint, then removes those that are no longer kept. Returns when it is on the disk.

  Args:
    folder: of all checkpoints of a run; made if need be.
    step: what the checkpoint is called; one of the same step is replaced, without a moment in which neither is there.
    state: pytree of arrays (jax, numpy, PRNG keys) and python bools, ints, floats, strings.
    meta: JSON values: dicts with string keys, lists, strings, numbers, None.
    keep: how many checkpoints stay, the last ones; the best one stays besides.
    best: the metric of this step, higher is better.

  Raises:
    TypeError: a leaf or an entry of `meta` that cannot be stored exactly; the message names it.
    CheckpointError: the disk is full or cannot be written (older checkpoints are as they were), or a later step is there.
  """
  if keep < 1:
    raise ValueError(f'keep={keep} would leave no checkpoint; it must be at least 1')
  folder = os.path.abspath(folder)
  leaves, arrays = _describe(state)
  _check_json(meta, 'meta')
  newest = latest(folder)
  if newest is not None and newest > step:
    raise CheckpointError(f'{folder} holds a checkpoint of step {newest} already, so step {step} would never be resumed; '
                          f'continue from that one, or give another folder')
  index = dict(step=int(step), best=None if best is None else float(best), leaves=leaves)
  temp, lead = os.path.join(folder, f'tmp-{step}'), jax.process_index() == 0
  try:
    if lead:
      os.makedirs(folder, exist_ok=True)
      clean(folder)
      os.mkdir(temp)
    _barrier(f'checkpoint {step} begins')
    if arrays:
      with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(os.path.join(temp, 'arrays'), arrays)
    if lead:
      _write(os.path.join(temp, 'index.json'), index)
      _write(os.path.join(temp, 'meta.json'), dict(meta))
      os.rename(temp, _free_name(folder, step))
      _sync(folder)
      _prune(folder, keep)
    _barrier(f'checkpoint {step} ends')
  except Exception as e:
    shutil.rmtree(temp, ignore_errors=True)
    raise CheckpointError(f'cannot write the checkpoint of step {step} to {folder}: {_reason(e)}; '
                          f'older checkpoints are as they were') from e


def restore(folder: str | os.PathLike, like: Any, step: int | None = None, *,
            subset: bool = False) -> tuple[Any, dict, int]:
  """(state, meta, step) of a checkpoint.

  Args:
    folder: of all checkpoints of a run.
    like: the tree that is wanted, of arrays or `jax.ShapeDtypeStruct`. Its leaves say what becomes of each array: a
      sharding is followed, numpy stays numpy.
    step: which one; None: the latest.
    subset: leave on the disk what `like` does not have; with `like={}` only `meta` is read.

  Raises:
    CheckpointError: there is no such checkpoint, or `like` differs from it; the message names the first leaf that does.
  """
  step, path = _find(folder, step)
  stored = _stored(path)
  wanted, tree = jax.tree_util.tree_flatten_with_path(like)
  wanted = [(_name(p), x) for p, x in wanted]
  _compare(path, stored, wanted, subset)
  return jax.tree.unflatten(tree, _load(path, stored, wanted)), _read(os.path.join(path, 'meta.json')), step


def latest(folder: str | os.PathLike) -> int | None:
  """The last step with a checkpoint, None where there is none."""
  return max((step for step, _ in _checkpoints(folder)), default=None)


def best(folder: str | os.PathLike) -> int | None:
  """The step with the highest metric (the later of equals), None where none was given."""
  scored = [(metric, step) for step, path in _checkpoints(folder)
            if (metric := _read(os.path.join(path, 'index.json'))['best']) is not None and not math.isnan(metric)]
  return max(scored)[1] if scored else None


def clean(folder: str | os.PathLike) -> None:
  """Removes what a killed `save` left behind. Only the process that writes to the folder may call it."""
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    if name.startswith('tmp-'):
      shutil.rmtree(os.path.join(folder, name))


# ---- the folder ----------------------------------------------------------------------------------------------------

def _checkpoints(folder):
  """[(step, path)], ascending; of a step that was replaced, the newer one."""
  found = {}
  for name in os.listdir(folder) if os.path.isdir(folder) else ():
    m = _NAME.fullmatch(name)
    if m and os.path.exists(os.path.join(folder, name, 'index.json')):
      step, version = int(m[1]), int(m[2] or 0)
      found[step] = max(found.get(step, (-1, '')), (version, os.path.join(os.path.abspath(folder), name)))
  return [(step, path) for step, (_, path) in sorted(found.items())]


def _find(folder, step):
  found = dict(_checkpoints(folder))
  if not found:
    raise CheckpointError(f'there is no checkpoint in {os.path.abspath(folder)}')
  step = max(found) if step is None else step
  if step not in found:
    raise CheckpointError(f'there is no checkpoint of step {step} in {os.path.abspath(folder)}; there are {sorted(found)}')
  return step, found[step]


def _free_name(folder, step):
  """A folder cannot be renamed over another, so a replacement is called '00000120.1', and wins over '00000120'."""
  taken = [int(m[2] or 0) for name in os.listdir(folder) if (m := _NAME.fullmatch(name)) and int(m[1]) == step]
  return os.path.join(folder, f'{step:08d}' + (f'.{max(taken) + 1}' if taken else ''))


def _prune(folder, keep):
  """Removes what is neither one of the last, nor the best, nor the newer of a step that was replaced."""
  found = dict(_checkpoints(folder))
  steps = {*sorted(found)[-keep:], best(folder)}
  kept = {path for step, path in found.items() if step in steps}
  for name in os.listdir(folder):
    if _NAME.fullmatch(name) and os.path.join(folder, name) not in kept:
      _remove(os.path.join(folder, name))


def _remove(path):
  """Renamed first: killed in the middle, half a checkpoint must not look like one."""
  gone = os.path.join(os.path.dirname(path), 'tmp-old-' + os.path.basename(path))
  os.rename(path, gone)
  shutil.rmtree(gone)


def _write(path, value):
  with open(path, 'w') as f:
    json.dump(value, f, indent=1)
    f.flush()
    os.fsync(f.fileno())


def _read(path):
  with open(path) as f:
    return json.load(f)


def _sync(folder):
  fd = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(fd)
  finally:
    os.close(fd)


def _barrier(name):
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def _quiet():
  """Orbax logs the errors it raises, once a thread, and remarks on its own files; here they are raised only."""
  logger = logging.getLogger('absl')
  ours = lambda record: f'{os.sep}orbax{os.sep}' not in record.pathname
  logger.addFilter(ours)
  try:
    yield
  finally:
    logger.removeFilter(ours)


def _reason(e):
  """One sentence: what the system said where it is known, else the first line of the error."""
  code = re.search(r"os_error_code='(\d+)'", str(e))
  if code:
    return os.strerror(int(code[1]))
  return (str(e).strip() or type(e).__name__).splitlines()[0][:300]


# ---- leaves --------------------------------------------------------------------------------------------------------

def _name(path):
  return jax.tree_util.keystr(path, simple=True, separator='/')


def _kind(x):
  """'key', 'array', the name of a python type, or None."""
  if isinstance(x, (jax.Array, jax.ShapeDtypeStruct, np.ndarray, np.generic)):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      return 'key'
    number = jnp.issubdtype(x.dtype, np.number) and x.dtype.kind != 'm'   # to numpy, durations are integers
    return 'array' if number or x.dtype == bool else None
  return next((name for name, kind in _PYTHON.items() if type(x) is kind), None)


def _describe(state):
  """([{path, kind, ...} of each leaf], path -> array for orbax, which takes no empty arrays)."""
  leaves, arrays = {}, {}
  for path, x in jax.tree_util.tree_leaves_with_path(state):
    name, kind = _name(path), _kind(x)
    if kind is None or isinstance(x, jax.ShapeDtypeStruct):
      what = f'{type(x).__name__} of {x.dtype}' if hasattr(x, 'dtype') else type(x).__name__
      raise TypeError(f"leaf '{name}' is a {what}, which a checkpoint cannot store: it takes arrays of numbers, PRNG keys, "
                      f'bool, int, float and str; the rest goes into meta')
    if name in leaves:
      raise TypeError(f"two leaves are called '{name}'; rename the key that has a '/' in it")
    leaf = leaves[name] = dict(path=name, kind=kind)
    if kind in _PYTHON:
      leaf['value'] = x
    else:
      leaf |= dict(shape=list(x.shape), dtype=str(x.dtype))
      if kind == 'key':
        leaf['impl'], x = str(jax.random.key_impl(x)), jax.random.key_data(x)
      leaf['data'] = list(x.shape)
      if x.size:
        arrays[name] = np.asarray(x) if isinstance(x, np.generic) else x
  return list(leaves.values()), arrays


def _say(leaf):
  return f'{leaf["dtype"]}{leaf["shape"]}' if 'shape' in leaf else f'python {leaf["kind"]}'


def _stored(path):
  return {leaf['path']: leaf for leaf in _read(os.path.join(path, 'index.json'))['leaves']}


def _compare(path, stored, wanted, subset):
  names = [name for name, _ in wanted]
  for name in names:
    if name not in stored:
      raise CheckpointError(f"the checkpoint {path} has no leaf '{name}'")
  surplus = [name for name in stored if name not in set(names)]
  if surplus and not subset:
    raise CheckpointError(f"the checkpoint {path} has a leaf '{surplus[0]}' that is not asked for")
  for name, x in wanted:
    want = dict(kind=_kind(x))
    if want['kind'] in ('array', 'key'):
      want |= dict(shape=list(x.shape), dtype=str(x.dtype))
    elif want['kind'] is None:
      want['kind'] = type(x).__name__
    if _say(want) != _say(stored[name]):
      raise CheckpointError(f"leaf '{name}' of the checkpoint {path} is {_say(stored[name])}, "
                            f'but {_say(want)} is asked for')


def _sharding(x):
  """Where the leaf must live; None: anywhere (an uncommitted array stays so, or the resumed run would compile anew)."""
  return x.sharding if isinstance(x, jax.ShapeDtypeStruct) or (isinstance(x, jax.Array) and x.committed) else None


def _restore_args(x):
  sharding = _sharding(x)
  if sharding is None:
    return ocp.RestoreArgs(restore_type=np.ndarray)
  return ocp.ArrayRestoreArgs(restore_type=jax.Array, sharding=sharding)


def _load(path, stored, wanted):
  """The leaves, each as its `like` has it; the checkpoint is known to have them."""
  args = {name: _restore_args(x) for name, x in wanted if 0 not in stored[name].get('data', [0])}
  arrays = {}
  if args:
    request = ocp.args.PyTreeRestore(item=dict.fromkeys(args, 0), restore_args=args, partial_restore=True)
    try:
      with _quiet(), ocp.PyTreeCheckpointer() as checkpointer:
        arrays = checkpointer.restore(os.path.join(path, 'arrays'), args=request)
    except Exception as e:
      raise CheckpointError(f'cannot read the checkpoint {path}: {_reason(e)}') from e
  return [_revive(stored[name], arrays.get(name), x) for name, x in wanted]


def _revive(leaf, array, like):
  """The leaf as `like` has it."""
  if 'value' in leaf:
    return leaf['value']
  if array is None:   # an empty one
    array = np.zeros(leaf['data'], np.uint32 if leaf['kind'] == 'key' else like.dtype)
    array = array if _sharding(like) is None else jax.device_put(array, _sharding(like))
  if isinstance(like, np.generic):
    return array[()]
  if isinstance(like, np.ndarray):
    return array
  if isinstance(array, np.ndarray):
    array = jnp.array(array)
  return jax.random.wrap_key_data(array, impl=leaf['impl']) if leaf['kind'] == 'key' else array


def _check_json(value, path):
  """Raises on what JSON would not give back as it was."""
  if isinstance(value, dict):
    for k, v in value.items():
      if not isinstance(k, str):
        raise TypeError(f'{path} has the key {k!r}, which JSON turns into a string; use string keys')
      _check_json(v, f'{path}/{k}')
  elif isinstance(value, list):
    for n, v in enumerate(value):
      _check_json(v, f'{path}/{n}')
  elif value is not None and type(value) not in (bool, int, float, str):
    raise TypeError(f'{path} is a {type(value).__name__}, which JSON does not give back as it was; '
                    f'use dict, list, str, int, float, bool or None')
