"""A model's slots: which ids each slot has read, and one call that lets many paths speak.

A context is looked up by its ids: the slot that has read the longest common prefix is continued or copied, and only the rest is
read. Paths of one call that begin alike read that part once. So an episode never reads its own past again, branches of a tree
and the answers to one prompt share it, and correctness does not depend on what is warm.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx.grow import sampling
from rlx.types import Model


class Limits(NamedTuple):
  """Sizes of the sampler, in ids. `slots`: paths that grow at once; `buckets`: how many of them one call computes."""
  slots: int = 64
  width: int = 512                  # ids a slot can hold
  turn: int = 128                   # ids an action may have
  chunk: int = 64                   # ids read in one call
  buckets: tuple[int, ...] = ()     # numbers of rows that are compiled, `slots` always among them
  copy_from: int = 32               # a shared prefix shorter than this is read again rather than copied
  on_full: str = 'end'              # what a path does that has no room for another turn: 'end' | 'window' | 'error'


class Request(NamedTuple):
  """One path that wants to speak: its whole context, its slot of last time (-1: none), its key and how to sample."""
  context: Sequence[int]
  slot: int
  key: np.ndarray                   # [2] u32
  sampling: dict
  room: int
  begun: int = 0                    # ids at the end of the context that belong to the action: a stop string may begin there


class Speech(NamedTuple):
  """What was drawn for a request."""
  slot: int
  ids: list[int]
  logp: np.ndarray                  # [n] f32
  entropy: np.ndarray
  sampler_logp: np.ndarray
  text: str
  stopped: bool                     # False: the room was used up


class Stop(NamedTuple):
  """Where an action ends: after one of the ids, or where its text holds one of the strings."""
  ids: tuple[int, ...] = ()
  strings: tuple[str, ...] = ()


SEGMENT = 8   # ids drawn between two looks for a stop string


def sampler(policy, limits: Limits, stop: Stop):
  """The compiled functions that go with these limits; made once a run, so that they survive new parameters."""
  return sampling.make(policy, limit=min(SEGMENT, limits.turn) if stop.strings else limits.turn, stop_ids=stop.ids)


@dataclasses.dataclass(eq=False)
class Engine:
  """The slots of one model. Counters are read by metrics; everything else belongs to the functions below."""
  model: Model
  limits: Limits
  stop: Stop
  sampler: Any
  slots: Any
  known: np.ndarray                 # [B, S] ids each slot has read
  length: np.ndarray                # [B]    how many of them
  ready: np.ndarray                 # [B]    behind how many of them its next logits stand
  busy: np.ndarray                  # [B]    bool
  used: np.ndarray                  # [B]    when last
  clock: int = 0
  read: int = 0                     # ids read, padding not counted
  drawn: int = 0


def create(model: Model, limits: Limits, stop: Stop) -> Engine:
  """Empty slots, and the compiled functions of the sampler."""
  B, S = limits.slots, limits.width
  made = sampler(model.policy, limits, stop)
  slots = made.empty(B, S)
  where = getattr(next(iter(jax.tree.leaves(model.params)), None), 'sharding', None)
  if isinstance(where, jax.sharding.NamedSharding):      # where the parameters live, or the first call compiles for a place of its own
    slots = jax.device_put(slots, jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec()))
  return Engine(model, limits, stop, made, slots, np.zeros((B, S), np.int32), np.zeros(B, np.int32),
                np.full(B, -1, np.int32), np.zeros(B, bool), np.zeros(B, np.int64))


def refresh(engine: Engine, params) -> None:
  """New parameters: what was read with the old ones is forgotten, and which slot was used when."""
  engine.model = engine.model._replace(params=params)
  engine.length[:] = 0
  engine.ready[:] = -1
  engine.busy[:] = False
  engine.used[:] = 0
  engine.clock = 0


def free(engine: Engine, slot: int) -> None:
  """The path in this slot is finished; what it has read stays until the slot is wanted."""
  if slot >= 0:
    engine.busy[slot] = False


def vacant(engine: Engine) -> int:
  """Slots that no path holds: how many new paths may speak in one call."""
  return int((~engine.busy).sum())


def speak(engine: Engine, requests: Sequence[Request]) -> list[Speech]:
  """One turn of every request: contexts are read as far as they are new, then actions are drawn together.

  Raises:
    ValueError: a context that is empty or does not fit the slots, or more new paths than vacant slots.
  """
  return _draw(engine, _listen(engine, requests), requests)


def score(engine: Engine, contexts: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """Log-probabilities of forced ids: `[len(suffix)]` each, at temperature 1, on the warm cache.

  Raises:
    ValueError: as `speak` does.
  """
  out = []
  while len(out) < len(contexts):
    now = slice(len(out), len(out) + max(vacant(engine), 1))
    part, tails = contexts[now], suffixes[now]
    slots = _listen(engine, [Request(c, -1, np.zeros(2, np.uint32), {}, len(t)) for c, t in zip(part, tails, strict=True)])
    out += _read(engine, slots, [[*c, *t] for c, t in zip(part, tails, strict=True)], score=True)
    for s in slots:
      free(engine, s)
  return out


def keys(key: jax.Array, codes: Sequence[Sequence[int]], size: int) -> np.ndarray:
  """`[n, 2]` u32 fold_in(fold_in(fold_in(key, a), b), c) of codes (a, b, c); `size` >= n is what is compiled."""
  padded = np.zeros((size, 3), np.uint32)
  padded[:len(codes)] = codes
  return np.asarray(_fold(key, padded))[:len(codes)]


@jax.jit
def _fold(key, codes):
  fold = lambda c: jax.random.key_data(jax.random.fold_in(jax.random.fold_in(jax.random.fold_in(key, c[0]), c[1]), c[2]))
  return jax.vmap(fold)(codes)


def compiles(engine: Engine) -> int:
  """Programs the sampler has compiled so far."""
  return sum(f._cache_size() for f in engine.sampler if hasattr(f, '_cache_size'))


# ---- where a path lives ----------------------------------------------------------------------------------------------

def _listen(engine, requests):
  """A slot for every request, in which exactly its context has been read."""
  if not requests:
    return []
  limits = engine.limits
  want, size = np.full((len(requests), limits.width), -1, np.int32), [len(r.context) for r in requests]
  for row, r, length in zip(want, requests, size, strict=True):
    if not length:
      raise ValueError('an empty context: there must be at least one id before an action.')
    if length + max(r.room, 1) > limits.width:
      raise ValueError(f'a context of {length} ids and a turn of {r.room} do not fit the {limits.width} ids of a slot.')
    row[:length] = r.context
  slots, size = np.asarray([r.slot for r in requests]), np.asarray(size)
  engine.clock += 1
  engine.busy[slots[slots >= 0]] = True
  copies, follows = _place(engine, want, size, slots)
  engine.used[slots] = engine.clock
  _copy(engine, copies)
  rank = [0] * len(requests)             # who follows nobody reads first, then those who follow these, and so on
  for i, leader in follows.items():      # leaders stand before their followers
    rank[i] = rank[leader] + 1
  for turn in range(max(rank) + 1):
    wave = [i for i, r in enumerate(rank) if r == turn]
    _copy(engine, {slots[i]: slots[follows[i]] for i in wave if i in follows})
    at = slots[wave]
    common = np.minimum(_common(engine.known[at], want[wave]), engine.length[at])
    again = (common == size[wave]) & (engine.ready[at] != common)      # all is read, but the logits are gone
    engine.length[at] = common - again
    _read(engine, at.tolist(), [requests[i].context for i in wave])
  return slots.tolist()


def _place(engine, want, size, slots):
  """Fills in `slots` where there is none yet.

  A slot all of whose ids are wanted is continued. Otherwise the one used longest ago is taken, and what the context shares with
  another slot, or with an earlier context of this call, is copied if it is long enough.

  Returns:
    ({slot: slot to copy from}, {request: request to copy from, once that has read}).
  """
  limits, new = engine.limits, np.flatnonzero(slots < 0).tolist()
  order = np.argsort(engine.used + np.where(engine.busy, engine.clock + 1, 0), kind='stable')[:vacant(engine)]
  if len(new) > len(order):
    raise ValueError(f'{len(new)} new paths want to speak at once, {len(order)} of {limits.slots} slots are vacant.')
  open_slots = dict.fromkeys(order.tolist())     # in the order they were used
  copies, follows, firsts, seen = {}, {}, [], {}
  for i in new:
    name = want[i].tobytes()
    if name not in seen:
      common = np.minimum(_common(engine.known, want[i]), engine.length)
      best = int(common.argmax())
      whole = np.flatnonzero((common == engine.length) & (common == common[best])).tolist() if common[best] else []
      shared = np.minimum(_common(want[firsts], want[i]), size[firsts]) if firsts else np.zeros(1, int)
      leader = int(shared.argmax())
      seen[name] = common.tolist(), best, whole, (firsts[leader], int(shared[leader])) if firsts else (-1, 0)
      firsts.append(i)
    common, best, whole, (leader, shared) = seen[name]
    slot = next((s for s in whole if s in open_slots), None)
    if slot is None:
      slot = next(iter(open_slots))
    have = common[slot]
    if common[best] >= limits.copy_from and common[best] > have:
      copies[slot], have = best, common[best]
    if shared - have >= limits.copy_from:
      copies.pop(slot, None)
      follows[i] = leader
    seen[name] = common, best, whole, (leader, shared) if i not in firsts[-1:] else (i, int(size[i]))
    slots[i] = slot
    engine.busy[slot] = True
    del open_slots[slot]
  return copies, follows


def _common(known, want):
  """`[B]` ids that each row of known has in common with want, from the start."""
  differs = known != (want[None] if want.ndim == 1 else want)
  return np.where(differs.any(1), differs.argmax(1), known.shape[1])


def _copy(engine, sources):
  """Slots become copies of other slots, as those are before any of it."""
  if not sources:
    return
  source = np.arange(engine.limits.slots, dtype=np.int32)
  source[list(sources)] = list(sources.values())
  engine.slots = engine.sampler.fork(engine.slots, source, engine.length[source])
  engine.known, engine.length, engine.ready = engine.known[source], engine.length[source], engine.ready[source]


# ---- reading ---------------------------------------------------------------------------------------------------------

def _read(engine, slots, contexts, score=False):
  """Reads what is new of each context, a chunk at a time; with `score` returns its log-probabilities."""
  chunk, rest, scores = engine.limits.chunk, {}, {s: [np.zeros(0, np.float32)] for s in slots}
  for slot, context in zip(slots, contexts, strict=True):
    n = int(engine.length[slot])
    if n < len(context):
      rest[slot] = context[n:]
      engine.known[slot, n:len(context)] = rest[slot]
  while rest:
    rows = list(rest)
    b = _bucket(engine.limits, len(rows))
    index = np.full(b, engine.limits.slots, np.int32)
    ids, count = np.zeros((b, chunk), np.int32), np.zeros(b, np.int32)
    for i, slot in enumerate(rows):
      part = rest[slot][:chunk]
      index[i], ids[i, :len(part)], count[i] = slot, part, len(part)
      rest[slot] = rest[slot][chunk:]
      if not len(rest[slot]):
        del rest[slot]
    engine.slots, logp = engine.sampler.extend(engine.model.params, _current(engine), index, ids, count, score=score)
    if score:
      logp = np.asarray(logp)
      for i, slot in enumerate(rows):
        scores[slot].append(logp[i, :count[i]])
    at = index[:len(rows)]
    engine.length[at] += count[:len(rows)]
    engine.ready[at] = engine.length[at]
    engine.read += int(count.sum())
  return [np.concatenate(scores[s]) for s in slots] if score else None


def _current(engine):
  """The slots with the lengths the host has decided on.

  A copy by numpy, since calls run later than they are made and may read the host's own memory, also through `jnp.array`.
  """
  return dataclasses.replace(engine.slots, length=engine.length.copy())


def _bucket(limits, n):
  return next(b for b in sorted({*limits.buckets, limits.slots}) if b >= n)


# ---- drawing ---------------------------------------------------------------------------------------------------------

SETTINGS = dict(temperature=(1., np.float32), top_k=(0, np.int32), top_p=(1., np.float32), min_p=(0., np.float32))


def _draw(engine, slots, requests):
  """Draws every action to its stop; with stop strings in segments, and what was drawn beyond one is forgotten."""
  limits, tok = engine.limits, engine.model.tokenizer
  step = min(SEGMENT, limits.turn) if engine.stop.strings else limits.turn
  drawn = [([], [], [], []) for _ in requests]
  done, todo = [False] * len(requests), list(range(len(requests)))
  while todo:
    b = _bucket(limits, len(todo))
    pad = lambda values, fill, dtype: np.asarray([*values, *[fill] * (b - len(todo))], dtype)
    index = pad([slots[i] for i in todo], limits.slots, np.int32)
    room = pad([min(requests[i].room - len(drawn[i][0]), step) for i in todo], 0, np.int32)
    draw_keys = np.stack([requests[i].key for i in todo] + [np.zeros(2, np.uint32)] * (b - len(todo)))
    how = [requests[i].sampling for i in todo]
    columns = sampling.Sampling(**{k: pad([h.get(k, v) for h in how], v, t) for k, (v, t) in SETTINGS.items()})
    truncated = any(h.get('top_k', 0) or h.get('top_p', 1.) < 1 or h.get('min_p', 0.) for h in how)
    engine.slots, out = engine.sampler.decode(engine.model.params, _current(engine), index, room > 0, room, draw_keys, columns,
                                              truncated=truncated)
    out = jax.device_get(out)
    still = []
    for j, i in enumerate(todo):
      slot, n, ids = slots[i], int(out.count[j]), drawn[i][0]
      for column, values in zip(drawn[i], (out.ids, out.logp, out.entropy, out.sampler_logp), strict=True):
        column.extend(values[j, :n].tolist())
      at = int(engine.length[slot])
      engine.known[slot, at:at + n] = out.ids[j, :n]
      engine.length[slot] = engine.ready[slot] = at + n
      engine.drawn += n
      keep = _stop_at(tok, requests[i], ids, engine.stop.strings)
      if keep is not None:
        engine.length[slot] -= len(ids) - keep
        for column in drawn[i]:
          del column[keep:]
      done[i] = keep is not None or bool(out.stopped[j])
      if not done[i] and len(ids) < requests[i].room:
        still.append(i)
    todo = still
  texts = tok.decode_batch([d[0] for d in drawn])
  as_array = functools.partial(np.asarray, dtype=np.float32)
  return [Speech(slot, d[0], *map(as_array, d[1:]), text, stopped)
          for slot, d, text, stopped in zip(slots, drawn, texts, done, strict=True)]


def _stop_at(tok, request, ids, strings):
  """The number of drawn ids up to and including the first stop string; None if there is none.

  A string that begins in what the action had already said counts; one that ends there does not.
  """
  if not strings or not ids:
    return None
  said = list(request.context[len(request.context) - request.begun:])
  old = len(tok.decode(said)) if said else 0
  def holds(n):
    text = tok.decode([*said, *ids[:n]])
    return any(s in text[max(old - len(s) + 1, 0):] for s in strings)
  return next((n for n in range(1, len(ids) + 1) if holds(n)), None) if holds(len(ids)) else None
