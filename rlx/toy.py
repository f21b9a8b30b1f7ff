"""Small batches to think with: `toy.batch(parent=..., task=...)` makes one, `toy.show(batch, adv)` prints it, `toy.draw` draws it.

```
batch = toy.batch(parent=[-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, 1])
toy.show(batch, grpo(batch))
toy.draw(batch, grpo(batch), file='tree.png')
```
"""

import functools
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from rlx.show import drawing
from rlx.types import Batch, Nodes, Tokens

ENDS = ('', ' done', ' cut', ' failed')
draw = drawing.draw


def batch(parent: Sequence[int], *, group=0, end=None, judged: Mapping = {}, label: Mapping = {}, value: Mapping = {},
          role: Mapping = {}, stream: Mapping = {}, prompt: Mapping = {}, logp=0., n_tokens=1, n_obs=0, pack: int = 1,
          **reward) -> Batch:
  """Steps given as lists; everything but `parent` has a default.

  A row holds `pack` sequences; a sequence is the path to a step without a child, and trains what no earlier one trains.

  Args:
    parent: `[N]` previous step of each, -1 at a first step; parents come before their children.
    group: `[N]` prompt of each step, or one for all.
    end: `[N]` 0 to 3; by default 1 where a step has no child.
    judged, label, value: name -> `[N]`; labels may be strings or anything hashable.
    role, stream: name -> `[N]`, on every sampled token of the step; a stream may also be given as `[R, T]`.
    prompt: name -> `[G, ...]`.
    logp: `[N]` or `[R, T]` behaviour log-probability of the tokens.
    n_tokens: sampled tokens of each step: one number or `[N]`.
    n_obs: tokens of the observation before each step: one number or `[N]`.
    pack: sequences a row.
    **reward: channel -> `[N]`, for instance `task=[0, 0, 1]`.

  Returns:
    A batch without padding, but for rows shorter than the longest.

  Raises:
    ValueError: a column of another length, a child before its parent, an end that does not exist.
  """
  parent = np.asarray(parent, np.int32).reshape(-1)
  n = len(parent)
  wrong = [i for i, p in enumerate(parent) if not -1 <= p < i]
  if wrong:
    raise ValueError(f'parents come before their children: step {wrong[0]} has parent {parent[wrong[0]]}.')

  def column(name, x, dtype):
    x = np.asarray(x)
    if x.ndim and x.shape != (n,):
      raise ValueError(f'{name} has shape {x.shape}; there are {n} steps, so it must be one number or ({n},).')
    return np.broadcast_to(x.astype(dtype), n)

  def table(kind, columns, dtype):
    return {k: jnp.asarray(column(f'{kind}[{k!r}]', x, dtype)) for k, x in columns.items()}

  leaf = ~np.isin(np.arange(n), parent)
  end = column('end', leaf if end is None else end, np.int32)
  if n and not (0 <= end.min() and end.max() <= 3):
    raise ValueError('end is 0 goes on, 1 done, 2 cut off or 3 failed.')
  nodes = Nodes(parent=jnp.asarray(parent), group=jnp.asarray(column('group', group, np.int32)), valid=jnp.ones(n, bool),
                end=jnp.asarray(end), reward=table('reward', reward, np.float32), judged=table('judged', judged, bool),
                label=table('label', {k: _codes(x) for k, x in label.items()}, np.int32),
                value=table('value', value, np.float32))
  counts = np.stack([column('n_obs', n_obs, np.int32), column('n_tokens', n_tokens, np.int32)], 1)
  ids, node, segment, position, sampled, mask = _rows(parent, np.flatnonzero(leaf), counts, pack)

  def spread(name, x, dtype):
    x = np.asarray(x, dtype)
    if x.ndim == 2 and x.shape == node.shape:
      return jnp.asarray(x)
    return jnp.asarray(np.where(sampled, column(name, x, dtype)[node], np.zeros((), dtype)))

  rows = Tokens(ids=jnp.asarray(ids), node=jnp.asarray(node), segment=jnp.asarray(segment), position=jnp.asarray(position),
                sampled=jnp.asarray(sampled), mask=jnp.asarray(mask), logp=spread('logp', logp, np.float32),
                role={k: spread(f'role[{k!r}]', x, bool) for k, x in role.items()},
                stream={k: spread(f'stream[{k!r}]', x, np.float32) for k, x in stream.items()})
  return Batch(nodes=nodes, tokens=rows, prompt={k: jnp.asarray(x) for k, x in prompt.items()})


def _codes(x):
  """Integers and flags as they are; anything else numbered in the order it first appears."""
  if np.ndim(x) == 0 or all(isinstance(v, bool | int | np.bool_ | np.integer) for v in x):
    return x
  seen = {}
  return [seen.setdefault(v, len(seen)) for v in x]


def _rows(parent, leaves, counts, pack):
  """Token columns: for each leaf a sequence, for each step of its path the observation and the action."""
  taken, rows = set(), []
  start = np.cumsum(counts.sum(1)) - counts.sum(1)
  for k, leaf in enumerate(leaves):
    path = [leaf]
    while parent[path[0]] >= 0:
      path.insert(0, parent[path[0]])
    sequence = [(start[i] + j, i, k % pack, j >= counts[i, 0], j >= counts[i, 0] and i not in taken)
                for i in path for j in range(counts[i].sum())]
    taken.update(path)
    if k % pack == 0:
      rows.append([])
    rows[-1] += [(*token[:3], at, *token[3:]) for at, token in enumerate(sequence)]
  out = [np.full((len(rows), max(map(len, rows), default=0)), fill, type(fill)) for fill in (0, -1, -1, 0, False, False)]
  for r, row in enumerate(rows):
    for array, values in zip(out, zip(*row, strict=True), strict=True) if row else ():
      array[r, :len(row)] = values
  return [x if x.dtype == bool else x.astype(np.int32) for x in out]


class Shown(str):
  """What `show` printed; as the last thing in a cell of a notebook it is drawn as well."""

  def _repr_svg_(self) -> str:
    return self.drawing()


def show(batch: Batch, *columns, names: Sequence[str] = ('adv',)) -> str:
  """Prints the tree with its rewards, its labels and any further columns on it; see `draw` for a picture.

  Args:
    batch: any batch, a toy one or not.
    *columns: `[N]`, or `[R, T]` (the mean over the trained tokens of each step is shown), or `Advantages`.
    names: one for each column.

  Returns:
    The text that was printed.

  Raises:
    ValueError: not as many names as columns.
  """
  n = batch.nodes
  parent, end = np.asarray(n.parent), np.asarray(n.end)
  steps = np.flatnonzero(np.asarray(n.valid))
  cells = {**n.reward, **n.label, **drawing.by_step(batch, columns, names)}
  depth = {}
  for i in steps:
    depth[i] = depth[parent[i]] + 1 if parent[i] >= 0 else 0
  name = {i: '  ' * depth[i] + f'{i}{ENDS[end[i]]}' for i in steps}
  first = max([4, *map(len, name.values())]) + 2
  width = {k: max(11, len(k) + 2) for k in cells}
  lines = [f'{"step":{first}s}' + ''.join(f'{k:>{width[k]}s}' for k in cells)]
  for i in steps:
    lines.append(f'{name[i]:{first}s}' + ''.join(f'{round(float(x[i]), 6) + 0.:{width[k]}.4g}' for k, x in cells.items()))
  text = Shown('\n'.join(lines))
  text.drawing = functools.partial(draw, batch, *columns, names=names)
  print(text)
  return text
