"""Finished prompts to one batch of fixed shape: a node table, and token rows filled first fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlx import walk
from rlx.types import Batch, Group, Nodes, Row, Tokens


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


class _Item(NamedTuple):
  """A prompt to be packed."""
  group: Group
  rows: list[Row]
  sizes: list[tuple[int, int] | None]   # tokens and sampled tokens of each row; None: too long for every bucket


class _Place(NamedTuple):
  """Where a sequence goes."""
  row: int
  start: int
  segment: int


def pack(groups: Sequence[Group], *, rows: Callable, buckets: Sequence[Bucket], labels: Mapping[str, Callable] = {},
         channels: Sequence[str] = (), roles: Sequence[str] = (), streams: Sequence[str] = (), values: Sequence[str] = (),
         judged: Sequence[str] = (), prompt: Sequence[str] = (), label_names: Sequence[str] = (),
         intern: Callable | None = None, unit: str = 'row') -> list[Packed]:
  """Packs groups into batches, as few as the buckets allow; a group never spans two.

  Args:
    groups: finished prompts, their steps cut.
    rows: which rows are trained (`learn.rows`).
    buckets: the shapes; the smallest that holds a batch is taken.
    labels: name -> function of the steps of one prompt that gives a hashable for each.
    channels, roles, streams, values, judged, prompt, label_names: the columns that must exist, filled with 0 where nothing wrote them.
    intern: `(hashables of each prompt) -> [N] i32`, equal = same (`grow.labels.intern`); by default a dict.
    unit: what minibatches keep together. 'group': a row holds sequences of one prompt only, 'path': of paths with one first step;
      both cost padding.

  Returns:
    The packed batches. A sequence that is too long for every bucket is dropped and counted.

  Raises:
    ValueError: a prompt that no bucket holds.
  """
  buckets = sorted(buckets, key=lambda b: (b.rows * b.width, b.nodes, b.prompts))
  columns = dict(channels=channels, roles=roles, streams=streams, values=values, judged=judged, prompt=prompt,
                 label_names=tuple(dict.fromkeys((*label_names, *labels))))
  items = [_measured(g, rows(g), buckets) for g in groups]
  packed, at = [], 0
  while at < len(items):
    stop, bucket, places = _most(items, at, buckets, unit)
    packed.append(_one(items[at:stop], bucket, places, labels, columns, intern or _intern))
    at = stop
  return packed


# ---- which prompts, where ----------------------------------------------------------------------------------------------

def _measured(group, rows, buckets):
  nodes, sizes = group.nodes, []
  for row in rows:
    length = len(row.prefix) + sum([len(nodes[s].ids) + (len(nodes[s].context) if k else 0) for k, s in enumerate(row.nodes)])
    size = length, sum([np.count_nonzero(nodes[s].sampled) for s in row.nodes])
    sizes.append(size if any(_holds(b, size) for b in buckets) else None)
  return _Item(group, _handed_on(rows, sizes) if None in sizes else rows, sizes)


def _handed_on(rows, sizes):
  """The rows, where a shared step whose owner is dropped belongs to the first that is kept."""
  orphans = {s for row, size in zip(rows, sizes, strict=True) if size is None for s, own in zip(row.nodes, row.owns, strict=True) if own}
  out = []
  for row, size in zip(rows, sizes, strict=True):
    if size is not None:
      owns = [own or s in orphans for s, own in zip(row.nodes, row.owns, strict=True)]
      orphans.difference_update(row.nodes)
      row = row._replace(owns=owns)
    out.append(row)
  return out


def _holds(bucket, size):
  return size[0] <= bucket.width and (bucket.actions is None or size[1] <= bucket.actions)


def _most(items, at, buckets, unit):
  """(stop, bucket, places): as many of the items from `at` on as a bucket holds, found by bisection."""
  found = _choose(items[at:], buckets, unit)
  if found:
    return len(items), *found
  low, high, best = at + 1, len(items), _choose(items[at:at + 1], buckets, unit)
  if not best:
    raise ValueError(_too_large(items[at], buckets))
  while high - low > 1:
    middle = (low + high) // 2
    found = _choose(items[at:middle], buckets, unit)
    if found:
      low, best = middle, found
    else:
      high = middle
  return low, *best


def _choose(items, buckets, unit):
  """(bucket, places) of the smallest bucket that holds them all, None if there is none."""
  owner = dict(row=lambda i, item, row: 0, group=lambda i, item, row: i,
               path=lambda i, item, row: (i, walk.path(item.group.nodes, row.nodes[0])[0]))[unit]
  sizes = [(*size, owner(i, item, row)) if size else None
           for i, item in enumerate(items) for row, size in zip(item.rows, item.sizes, strict=True)]
  nodes = sum(len(item.group.nodes) for item in items)
  for bucket in buckets:
    if nodes <= bucket.nodes and len(items) <= bucket.prompts:
      places = _place(sizes, bucket)
      if places is not None:
        return bucket, places
  return None


def _place(sizes, bucket):
  """First fit, longest first: a `_Place` for each (length, actions, owner), None for each None; None if they do not fit."""
  order = sorted((i for i, size in enumerate(sizes) if size), key=lambda i: -sizes[i][0])
  least = sizes[order[-1]][0] if order else 0
  room, acts, count, whose = [], [], [], []        # of each row: free tokens, free actions, sequences, owner
  open_rows, places = [], [None] * len(sizes)
  for i in order:
    length, actions, owner = sizes[i]
    for r in open_rows:
      if length <= room[r] and actions <= acts[r] and whose[r] == owner:
        break
    else:
      r = len(room)
      if r == bucket.rows or not _holds(bucket, (length, actions)):
        return None
      open_rows.append(r)
      room.append(bucket.width)
      acts.append(bucket.width if bucket.actions is None else bucket.actions)
      count.append(0)
      whose.append(owner)
    places[i] = _Place(r, bucket.width - room[r], count[r])
    room[r] -= length
    acts[r] -= actions
    count[r] += 1
    if room[r] < least:
      open_rows.remove(r)
  return places


def _too_large(item, buckets):
  name, nodes, most = item.group.task.id, len(item.group.nodes), max(b.nodes for b in buckets)
  if nodes > most:
    return f"prompt '{name}' has {nodes} steps, the largest bucket holds {most}: raise `nodes` of the last entry of buckets."
  longest = max(size[0] for size in item.sizes if size)
  return (f"prompt '{name}' alone has {len(item.rows)} rows of up to {longest} tokens, the largest bucket is {tuple(buckets[-1])}: "
          'raise its `rows`.')


# ---- one batch ---------------------------------------------------------------------------------------------------------

def _one(items, bucket, places, labels, columns, intern):
  groups = [item.group for item in items]
  first = np.cumsum([0] + [len(g.nodes) for g in groups])[:-1].tolist()
  nodes = _nodes(groups, first, bucket, labels, columns, intern)
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
  for k in dict.fromkeys((*columns['channels'], *sorted({k for s in every for k in s.reward}))):
    got = [s.reward.get(k, 0.) for s in every]
    reward[k] = column([0. if v is None else v for v in got], 0., np.float32)
    if k in columns['judged'] or None in got:
      judged[k] = column([v is not None for v in got], True, bool)
  for k in dict.fromkeys((*columns['values'], *sorted({k for s in every for k in s.value}))):
    value[k] = column([s.value.get(k, 0.) for s in every], 0., np.float32)
  for k in columns['label_names']:
    label[k] = column(intern([labels[k](g.nodes) if k in labels else [s.label.get(k) for s in g.nodes] for g in groups]), 0, np.int32)
  return Nodes(parent=column(parent, -1, np.int32), group=column(group, 0, np.int32), valid=column(True, False, bool),
               end=column([s.end for s in every], 0, np.int32), reward=reward, judged=judged, label=label, value=value)


def _intern(columns):
  """Integers and flags keep their value, so that a selector can ask for `> 0`; everything else is numbered, each None apart."""
  values = [v for c in columns for v in c]
  if all(v is None or isinstance(v, bool | int | np.integer) for v in values):
    return [v or 0 for v in values]
  seen = {}
  return [seen.setdefault((i, None) if v is None else v, len(seen)) for i, v in enumerate(values)]


def _tokens(items, first, places, bucket, columns):
  """The rows: sequences are laid end to end, then every token is sent to its place."""
  ids, begins, lengths, segments = [], [], [], []
  steps, owns, counts, nodes = [], [], [], []      # of each action; and for what stands before it and for itself: tokens, step
  at = iter(places)
  for item, offset in zip(items, first, strict=True):
    for row in item.rows:
      place = next(at)
      if place is None:
        continue
      start = len(ids)
      for k, s in enumerate(row.nodes):
        step = item.group.nodes[s]
        before = step.context if k else row.prefix
        ids += before
        ids += step.ids
        counts += len(before), len(step.ids)
        nodes += s + offset if k else -1, s + offset
        steps.append(step)
      owns += row.owns
      begins.append(place.row * bucket.width + place.start)
      lengths.append(len(ids) - start)
      segments.append(place.segment)
  lengths, counts = np.asarray(lengths, int), np.asarray(counts, int)
  position = np.arange(len(ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
  to = np.repeat(np.asarray(begins, int), lengths) + position
  acted = to[np.repeat(np.arange(len(counts)) % 2 == 1, counts)]
  sampled = _joined([s.sampled for s in steps], bool)

  def column(values, where, dtype, fill=0):
    out = np.full(bucket.rows * bucket.width, fill, dtype)
    out[where] = values
    return out.reshape(bucket.rows, bucket.width)

  def table(field, names, dtype):
    of = lambda step, name: had[name] if name in (had := getattr(step, field)) else np.zeros(len(step.ids), dtype)
    return {name: column(_joined([of(s, name) for s in steps], dtype), acted, dtype) for name in names}

  return Tokens(
      ids=column(ids, to, np.int32), node=column(np.repeat(np.asarray(nodes, int), counts), to, np.int32, -1),
      segment=column(np.repeat(np.asarray(segments, int), lengths), to, np.int32, -1), position=column(position, to, np.int32),
      sampled=column(sampled, acted, bool), mask=column(sampled & np.repeat(np.asarray(owns, bool), counts[1::2]), acted, bool),
      logp=column(_joined([s.logp for s in steps], np.float32), acted, np.float32),
      role=table('role', columns['roles'], bool), stream=table('stream', columns['streams'], np.float32)), len(ids)


def _joined(arrays, dtype):
  return np.concatenate(arrays).astype(dtype, copy=False) if arrays else np.zeros(0, dtype)
