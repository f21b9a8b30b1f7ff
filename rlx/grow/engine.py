"""A model's slots: which ids each slot has read, and one call that lets many paths speak.

A context is looked up by its ids: the slot that has read the longest common prefix is continued or copied, and only the rest is
read. So an episode never reads its own past again, branches of a tree share it, and correctness does not depend on what is warm.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
  busy: np.ndarray                  # [B]    bool
  used: np.ndarray                  # [B]    when last
  clock: int = 0
  read: int = 0                     # ids read, padding not counted
  drawn: int = 0


def create(model: Model, limits: Limits, stop: Stop) -> Engine:
  """Empty slots, and the compiled functions of the sampler."""
  B, S = limits.slots, limits.width
  made = sampler(model.policy, limits, stop)
  return Engine(model, limits, stop, made, made.empty(B, S), np.zeros((B, S), np.int32), np.zeros(B, np.int32),
                np.zeros(B, bool), np.zeros(B, np.int64))


def refresh(engine: Engine, params) -> None:
  """New parameters: what was read with the old ones is forgotten."""
  engine.model = engine.model._replace(params=params)
  engine.length[:] = 0
  engine.busy[:] = False


def free(engine: Engine, slot: int) -> None:
  """The path in this slot is finished; what it has read stays until the slot is wanted."""
  if slot >= 0:
    engine.busy[slot] = False


def speak(engine: Engine, requests: Sequence[Request]) -> list[Speech]:
  """One turn of every request: contexts are read as far as they are new, then actions are drawn together.

  Raises:
    ValueError: a context that does not fit the slots, or more requests than slots.
  """
  slots = _place(engine, requests)
  _read(engine, slots, [r.context for r in requests])
  return _draw(engine, slots, requests)


def score(engine: Engine, contexts: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """Log-probabilities of forced ids: `[len(suffix)]` each, at temperature 1, on the warm cache."""
  out = []
  for i in range(0, len(contexts), engine.limits.slots):
    part, tails = contexts[i:i + engine.limits.slots], suffixes[i:i + engine.limits.slots]
    slots = _place(engine, [Request(c, -1, np.zeros(2, np.uint32), {}, 0) for c in part])
    _read(engine, slots, part)
    whole = [[*c, *t] for c, t in zip(part, tails, strict=True)]
    out += _read(engine, slots, whole, score=True)
    for s in slots:
      free(engine, s)
  return out


def compiles(engine: Engine) -> int:
  """Programs the sampler has compiled so far."""
  return sum(f._cache_size() for f in engine.sampler if hasattr(f, '_cache_size'))


# ---- where a path lives ----------------------------------------------------------------------------------------------

def _place(engine, requests):
  """A slot for every request, with the longest common prefix already read; at least one id is left to read."""
  limits = engine.limits
  if len(requests) > limits.slots:
    raise ValueError(f'{len(requests)} paths want to speak at once in {limits.slots} slots.')
  engine.clock += 1
  placed, copies = [r.slot for r in requests], {}
  for r in requests:
    if len(r.context) + max(r.room, 1) > limits.width:
      raise ValueError(f'a context of {len(r.context)} ids and a turn of {r.room} do not fit the {limits.width} ids of a slot.')
  for slot in placed:
    if slot >= 0:
      engine.busy[slot] = True
  for i, r in enumerate(requests):
    want = np.asarray(r.context, np.int32)
    if placed[i] < 0:
      common = _common(engine.known, engine.length, want)
      best = int(np.argmax(common))
      open_slots = np.flatnonzero(~engine.busy)
      if not engine.busy[best] and common[best]:
        slot = best
      else:
        slot = int(open_slots[np.argmin(engine.used[open_slots])])
        if common[best] >= limits.copy_from:
          copies[slot] = best
      engine.busy[slot] = True
      placed[i] = slot
  if copies:
    source = np.arange(limits.slots, dtype=np.int32)
    for slot, best in copies.items():
      source[slot] = best
    engine.slots = engine.sampler.fork(engine.slots, jnp.asarray(source), jnp.asarray(engine.length[source]))
    engine.known, engine.length = engine.known[source], engine.length[source]
  for i, r in enumerate(requests):
    want, slot = np.asarray(r.context, np.int32), placed[i]
    common = int(_common(engine.known[slot:slot + 1], engine.length[slot:slot + 1], want)[0])
    engine.length[slot] = min(common, len(want) - 1)
    engine.used[slot] = engine.clock
  return placed


def _common(known, length, want):
  """`[B]` ids that each slot has in common with a context, from the start."""
  n = min(len(want), known.shape[1])
  differs = known[:, :n] != want[None, :n]
  first = np.where(differs.any(1), differs.argmax(1), n)
  return np.minimum(first, length)


# ---- reading ---------------------------------------------------------------------------------------------------------

def _read(engine, slots, contexts, score=False):
  """Reads what is new of each context, a chunk at a time; with `score` returns its log-probabilities."""
  chunk, rest, scores = engine.limits.chunk, {}, {s: [] for s in slots}
  for slot, context in zip(slots, contexts, strict=True):
    n = int(engine.length[slot])
    rest[slot] = context[n:]
    engine.known[slot, n:len(context)] = context[n:]
  while rest:
    rows = list(rest)
    b = _bucket(engine.limits, len(rows))
    index = np.full(b, engine.limits.slots, np.int32)
    ids, count = np.zeros((b, chunk), np.int32), np.zeros(b, np.int32)
    for i, slot in enumerate(rows):
      part = rest[slot][:chunk]
      index[i], ids[i, :len(part)], count[i] = slot, part, len(part)
    engine.slots = dataclasses.replace(engine.slots, length=jnp.asarray(engine.length))
    engine.slots, logp = engine.sampler.extend(engine.model.params, engine.slots, index, ids, count, score=score)
    if score:
      logp = np.asarray(logp)
    for i, slot in enumerate(rows):
      n = int(count[i])
      engine.length[slot] += n
      engine.read += n
      if score:
        scores[slot].append(logp[i, :n])
      rest[slot] = rest[slot][n:]
      if not len(rest[slot]):
        del rest[slot]
  return [np.concatenate(scores[s]) for s in slots] if score else None


def _bucket(limits, n):
  return next(b for b in sorted({*limits.buckets, limits.slots}) if b >= n)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def _draw(engine, slots, requests):
  """Draws every action to its stop; with stop strings in segments, and what was drawn beyond one is forgotten."""
  limits, tok = engine.limits, engine.model.tokenizer
  step = min(SEGMENT, limits.turn) if engine.stop.strings else limits.turn
  drawn = {s: ([], [], [], []) for s in slots}
  done, texts, todo = {}, {}, list(range(len(requests)))
  while todo:
    b = _bucket(limits, len(todo))
    pad = lambda values, fill, dtype: np.asarray([*values, *[fill] * (b - len(todo))], dtype)
    index = pad([slots[i] for i in todo], limits.slots, np.int32)
    room = pad([min(requests[i].room - len(drawn[slots[i]][0]), step) for i in todo], 0, np.int32)
    keys = np.stack([requests[i].key for i in todo] + [np.zeros(2, np.uint32)] * (b - len(todo)))
    how = [requests[i].sampling for i in todo]
    columns = sampling.Sampling(*(pad([h.get(k, v) for h in how], v, t) for k, v, t in (
        ('temperature', 1., np.float32), ('top_k', 0, np.int32), ('top_p', 1., np.float32), ('min_p', 0., np.float32))))
    truncated = any(h.get('top_k', 0) or h.get('top_p', 1.) < 1 or h.get('min_p', 0.) for h in how)
    engine.slots = dataclasses.replace(engine.slots, length=jnp.asarray(engine.length))
    engine.slots, out = engine.sampler.decode(engine.model.params, engine.slots, index, room > 0, room, keys, columns,
                                              truncated=truncated)
    out = jax.device_get(out)
    still = []
    for j, i in enumerate(todo):
      slot, n = slots[i], int(out.count[j])
      for column, values in zip(drawn[slot], (out.ids, out.logp, out.entropy, out.sampler_logp), strict=True):
        column.extend(values[j, :n].tolist())
      at = int(engine.length[slot])
      engine.known[slot, at:at + n] = out.ids[j, :n]
      engine.length[slot] += n
      engine.drawn += n
      if out.stopped[j]:
        done[i] = True
      elif engine.stop.strings and (keep := _stop_at(tok, drawn[slot][0], engine.stop.strings)) is not None:
        over = len(drawn[slot][0]) - keep
        for column in drawn[slot]:
          del column[keep:]
        engine.length[slot] -= over
        done[i] = True
      elif len(drawn[slot][0]) >= requests[i].room:
        done[i] = False
      else:
        still.append(i)
    todo = still
  texts = tok.decode_batch([drawn[s][0] for s in slots])
  as_array = functools.partial(np.asarray, dtype=np.float32)
  return [Speech(s, *drawn[s][:1], *map(as_array, drawn[s][1:]), text, done[i])
          for i, (s, text) in enumerate(zip(slots, texts, strict=True))]


def _stop_at(tok, ids, strings):
  """The number of ids up to and including the first stop string; None if there is none."""
  text = tok.decode(ids)
  if not any(s in text for s in strings):
    return None
  return next(n for n in range(1, len(ids) + 1) if any(s in tok.decode(ids[:n]) for s in strings))
