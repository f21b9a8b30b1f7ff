"""Safetensors on disk: tensors read one at a time from a folder, and written one at a time to it.

The format (huggingface/safetensors): eight bytes with the length of a JSON header, the header (name -> dtype, shape, place), then
the numbers. Nothing is unpickled, and only what is asked for is read.
"""

from collections.abc import Callable, Iterable, Mapping
import json
import math
import os
from typing import NamedTuple

import ml_dtypes
import numpy as np
import safetensors

INDEX = 'model.safetensors.index.json'
SINGLE = 'model.safetensors'
DTYPES = dict(F32=np.dtype(np.float32), F16=np.dtype(np.float16), BF16=np.dtype(ml_dtypes.bfloat16))
NAMES = {dtype.name: name for name, dtype in DTYPES.items()}


class Stored(NamedTuple):
  """Where a tensor is: its file, its shape, its type ('F32', 'BF16', ...)."""
  file: str
  shape: tuple[int, ...]
  dtype: str


def stored(folder: str) -> dict[str, Stored]:
  """name -> place of every tensor in the safetensors of a folder, single or sharded.

  Raises:
    ValueError: no safetensors (pickled weights are never read), a shard that is missing, or a file that is cut off.
  """
  index, single = os.path.join(folder, INDEX), os.path.join(folder, SINGLE)
  if os.path.isfile(index):
    with open(index, encoding='utf-8') as f:
      where = json.load(f)['weight_map']
    files = sorted(set(where.values()))
    if gone := [name for name in files if not os.path.isfile(os.path.join(folder, name))]:
      raise ValueError(f"'{folder}' lacks {gone[0]}, one of the {len(files)} files of {INDEX}: download it again.")
  elif os.path.isfile(single):
    files = [SINGLE]
  else:
    pickled = sorted(n for n in os.listdir(folder) if n.endswith(('.bin', '.pt', '.pth', '.ckpt')))
    if pickled:
      raise ValueError(f"'{folder}' holds pickled weights ({pickled[0]}), which are never read: save them as safetensors first, "
                       "model.save_pretrained(folder, safe_serialization=True) in transformers.")
    raise ValueError(f"'{folder}' holds no weights: there is neither {SINGLE} nor {INDEX}.")
  out = {}
  for name in files:
    path = os.path.join(folder, name)
    with _opened(path) as f:
      for tensor in f.keys():
        part = f.get_slice(tensor)
        out[tensor] = Stored(path, tuple(part.get_shape()), part.get_dtype())
  return out


def _opened(path):
  try:
    return safetensors.safe_open(path, framework='numpy')
  except safetensors.SafetensorError as e:
    raise ValueError(f"'{path}' is not a whole safetensors file ({e}): download it again.") from e


def read(name: str, place: Stored, index: tuple[slice, ...]) -> np.ndarray:
  """A block of a tensor, in the type it is stored in. The file is mapped for this call only, so no page of it stays.

  Raises:
    ValueError: a type that is no float of 16 or 32 bits.
  """
  if place.dtype not in DTYPES:
    raise ValueError(f"tensor '{name}' is stored as {place.dtype}; there are {', '.join(sorted(DTYPES))}.")
  with _opened(place.file) as f:
    return f.get_slice(name)[index]


class Tensor(NamedTuple):
  """A tensor to be written: `read()` gives its numbers when their turn has come."""
  shape: tuple[int, ...]
  read: Callable[[], np.ndarray]


def write(folder: str, named: Mapping[str, Tensor], *, dtype: str = 'float32', shard_bytes: int = 5_000_000_000,
          wrote: Callable[[int], None] = lambda count: None) -> None:
  """Writes tensors to a folder one after the other: one file, or shards of at most `shard_bytes` and their index.

  `wrote(bytes)` is told what has been written. Never more than one tensor is in memory.

  Raises:
    ValueError: another dtype than 'float32', 'float16', 'bfloat16'.
  """
  if dtype not in NAMES:
    raise ValueError(f"dtype '{dtype}' is not one of {sorted(NAMES)}.")
  kind = DTYPES[NAMES[dtype]]
  shards, sizes = [[]], {name: math.prod(t.shape) * kind.itemsize for name, t in named.items()}
  for name in named:
    if shards[-1] and sum(sizes[n] for n in shards[-1]) + sizes[name] > shard_bytes:
      shards.append([])
    shards[-1].append(name)
  files = [SINGLE] if len(shards) == 1 else [f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors' for i in range(len(shards))]
  for file, names in zip(files, shards, strict=True):
    _write_one(os.path.join(folder, file), {n: named[n] for n in names}, kind, wrote)
  if len(files) > 1:
    where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
    with open(os.path.join(folder, INDEX), 'w', encoding='utf-8') as f:
      json.dump(dict(metadata=dict(total_size=sum(sizes.values())), weight_map=where), f, indent=1)


def _write_one(path, named, kind, wrote):
  header, at = {'__metadata__': {'format': 'pt'}}, 0      # transformers asks for the word
  for name, t in named.items():
    size = math.prod(t.shape) * kind.itemsize
    header[name] = dict(dtype=NAMES[kind.name], shape=list(t.shape), data_offsets=[at, at + size])
    at += size
  text = json.dumps(header, separators=(',', ':')).encode()
  text += b' ' * (-len(text) % 8)
  with open(path, 'wb') as f:
    f.write(len(text).to_bytes(8, 'little') + text)
    for name, t in named.items():
      x = np.ascontiguousarray(t.read().astype(kind, copy=False))
      if x.shape != tuple(t.shape):
        raise ValueError(f"tensor '{name}' has the shape {x.shape}, not {tuple(t.shape)}.")
      f.write(x.view(np.uint8).data if x.size else b'')
      wrote(x.nbytes)
    f.flush()
    os.fsync(f.fileno())


def listed(names: Iterable[str], most: int = 3) -> str:
  """The first few of many names, for a message."""
  names = sorted(names)
  return ', '.join(names[:most]) + (f' and {len(names) - most} more' if len(names) > most else '')
