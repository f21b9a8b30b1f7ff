"""Finished prompts to one batch of fixed shape: a node table, and token rows filled first fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlx.types import Batch, Group, Nodes, Tokens


class Bucket(NamedTuple):
  """A shape that is compiled: `rows` x `width` tokens, `nodes` steps, `prompts` prompts; `actions`: sampled tokens a row at most."""
  rows: int
  width: int
  nodes: int
  prompts: int
  actions: int | None = None


class Packed(NamedTuple):
  """A batch of numpy arrays, its bucket, and where things came from."""
  batch: Batch
  bucket: Bucket
  groups: list[Group]
  first: list[int]     # index of the first node of each group
  padding: float       # share of the tokens that are padding
  dropped: int         # sequences that fit no bucket


def pack(groups: Sequence[Group], *, rows: Callable, buckets: Sequence[Bucket], labels: Mapping[str, Callable] = {},
         channels: Sequence[str] = (), roles: Sequence[str] = (), streams: Sequence[str] = (), values: Sequence[str] = (),
         judged: Sequence[str] = (), prompt: Sequence[str] = (), label_names: Sequence[str] = (),
         intern: Callable | None = None) -> list[Packed]:
  """Packs groups into batches, as few as the largest bucket allows; a group never spans two.

  Args:
    groups: finished prompts, their steps cut.
    rows: which rows are trained (`learn.rows`).
    buckets: the shapes; the smallest that holds a batch is taken.
    labels: name -> function of the steps of one prompt that gives a hashable for each.
    channels, roles, streams, values, judged, prompt, label_names: the columns that must exist, filled with 0 where nothing wrote them.
    intern: `(hashables of each prompt) -> [N] i32`, equal = same (`grow.labels.intern`); by default a dict.

  Returns:
    The packed batches. A sequence longer than the widest bucket is dropped and counted.
  """
  buckets = sorted(buckets)
  largest = buckets[-1]
  columns = dict(channels=channels, roles=roles, streams=streams, values=values, judged=judged, prompt=prompt,
                 label_names=tuple(dict.fromkeys((*label_names, *labels))))
  packed, waiting = [], []
  for group in groups:
    item = (group, rows(group))
    if waiting and not _fits([*waiting, item], largest):
      packed.append(_one(waiting, buckets, labels, columns, intern))
      waiting = []
    if len(group.nodes) > largest.nodes:
      raise ValueError(f"prompt '{group.task.id}' has {len(group.nodes)} steps, the largest bucket holds {largest.nodes}: "
                       f"raise `nodes` of the last entry of buckets.")
    waiting.append(item)
  if waiting:
    packed.append(_one(waiting, buckets, labels, columns, intern))
  return packed


def _fits(items, bucket):
  if sum(len(g.nodes) for g, _ in items) > bucket.nodes or len(items) > bucket.prompts:
    return False
  sizes = [(_length(g, r), _actions(g, r)) for g, rs in items for r in rs]
  return _place(sizes, bucket) is not None


def _length(group, row):
  nodes = group.nodes
  return len(row.prefix) + sum(len(nodes[i].ids) + (len(nodes[i].context) if k else 0) for k, i in enumerate(row.nodes))


def _actions(group, row):
  return sum(int(group.nodes[i].sampled.sum()) for i in row.nodes)


def _place(sizes, bucket):
  """First fit, longest first: for each sequence its (row, start), None for one that is too long; None if the rows do not do."""
  limit = bucket.width if bucket.actions is None else bucket.actions
  used, acted, places = [], [], [None] * len(sizes)
  for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0]):
    length, actions = sizes[i]
    if length > bucket.width or actions > limit:
      continue
    for r in range(len(used)):
      if used[r] + length <= bucket.width and acted[r] + actions <= limit:
        break
    else:
      r = len(used)
      if r == bucket.rows:
        return None
      used.append(0)
      acted.append(0)
    places[i] = (r, used[r])
    used[r] += length
    acted[r] += actions
  return places


def _one(items, buckets, labels, columns, intern):
  """One batch of the items, in the smallest bucket that holds them all."""
  sizes = [(_length(g, r), _actions(g, r)) for g, rs in items for r in rs]
  n_nodes = sum(len(g.nodes) for g, _ in items)
  for bucket in buckets:
    places = None if n_nodes > bucket.nodes or len(items) > bucket.prompts else _place(sizes, bucket)
    if places is not None and (bucket is buckets[-1] or None not in places):
      break
  if places is None:
    raise ValueError(f'prompt {items[0][0].task.id!r} alone has {len(sizes)} rows of up to {max(s[0] for s in sizes)} tokens, '
                     f'the largest bucket is {buckets[-1]}: raise its `rows`.')
  groups = [g for g, _ in items]
  first = np.cumsum([0] + [len(g.nodes) for g in groups])[:-1].tolist()
  nodes = _nodes(groups, first, bucket, labels, columns, intern or _intern)
  tokens, used = _tokens(items, first, places, bucket, columns)
  prompts = {k: np.zeros(bucket.prompts, np.float32) for k in dict.fromkeys((*columns['prompt'], *(k for g in groups for k in g.prompt)))}
  for k, column in prompts.items():
    column[:len(groups)] = [g.prompt.get(k, 0.) for g in groups]
  return Packed(Batch(nodes=nodes, tokens=tokens, prompt=prompts), bucket, groups, first,
                1 - used / (bucket.rows * bucket.width), places.count(None))


def _nodes(groups, first, bucket, labels, columns, intern):
  every = [n for g in groups for n in g.nodes]
  size, n = bucket.nodes, len(every)

  def column(values, fill, dtype):
    out = np.full(size, fill, dtype)
    out[:n] = values
    return out

  parent = [p.parent + f if p.parent >= 0 else -1 for g, f in zip(groups, first, strict=True) for p in g.nodes]
  group = [i for i, g in enumerate(groups) for _ in g.nodes]
  reward, judged, label, value = {}, {}, {}, {}
  channels = dict.fromkeys((*columns['channels'], *sorted({k for s in every for k in s.reward})))
  for k in channels:
    got = [s.reward.get(k, 0.) for s in every]
    reward[k] = column([0. if v is None else v for v in got], 0., np.float32)
    if k in columns['judged'] or any(v is None for v in got):
      judged[k] = column([v is not None for v in got], True, bool)
  for k in dict.fromkeys((*columns['values'], *sorted({k for s in every for k in s.value}))):
    value[k] = column([s.value.get(k, 0.) for s in every], 0., np.float32)
  for k in columns['label_names']:
    label[k] = column(intern([labels[k](g.nodes) if k in labels else [s.label.get(k) for s in g.nodes] for g in groups]), 0, np.int32)
  return Nodes(parent=column(parent, -1, np.int32), group=column(group, 0, np.int32), valid=column(True, False, bool),
               end=column([s.end for s in every], 0, np.int32), reward=reward, judged=judged, label=label, value=value)


def _intern(columns):
  """Integers and flags keep their value, so that a selector can ask for `> 0`; everything else is numbered."""
  values = [v for c in columns for v in c]
  if all(v is None or isinstance(v, bool | int | np.integer) for v in values):
    return [v or 0 for v in values]
  seen = {}
  return [seen.setdefault(v, len(seen)) for v in values]


def _tokens(items, first, places, bucket, columns):
  shape = bucket.rows, bucket.width
  ids, position = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
  node, segment = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
  sampled, mask, logp = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, np.float32)
  streams = {k: np.zeros(shape, np.float32) for k in columns['streams']}
  roles = {k: np.zeros(shape, bool) for k in columns['roles']}
  count = np.zeros(bucket.rows, np.int32)
  used, at = 0, iter(places)
  for (group, rows), offset in zip(items, first, strict=True):
    for row in rows:
      place = next(at)
      if place is None:
        continue
      r, start = place
      i = start
      for k, s in enumerate(row.nodes):
        step = group.nodes[s]
        before = row.prefix if k == 0 else step.context
        if before:
          ids[r, i:i + len(before)] = before
          node[r, i:i + len(before)] = s + offset if k else -1
          i += len(before)
        j = i + len(step.ids)
        ids[r, i:j] = step.ids
        node[r, i:j] = s + offset
        sampled[r, i:j] = step.sampled
        if row.owns[k]:
          mask[r, i:j] = step.sampled
        logp[r, i:j] = step.logp
        for name, column in streams.items():
          if name in step.stream:
            column[r, i:j] = step.stream[name]
        for name, column in roles.items():
          if name in step.role:
            column[r, i:j] = step.role[name]
        i = j
      segment[r, start:i] = count[r]
      position[r, start:i] = np.arange(i - start)
      count[r] += 1
      used += i - start
  return Tokens(ids=ids, node=node, segment=segment, position=position, sampled=sampled, mask=mask, logp=logp,
                role=roles, stream=streams), used

