"""What a sampler's slots have read: records, where a path finds its first ids, what a call looks back on, and reading.

Everything here is bookkeeping of the host, in numpy; `sampling` computes.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

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
  copy_from: int = 32               # a prefix shorter than this is read again rather than shared
  on_full: str = 'end'              # what a path does that has no room for another turn: 'end' | 'window' | 'error'
  segment: int = 0                  # ids drawn in one call: rows that are done then stop costing; 0: a whole turn, or SEGMENT
  share: int = 8                    # paths that meet a shared prefix in one product; more of them make several
  lanes: int = 1                    # parts of the slots that are computed by a thread each: small models keep one core busy


class Stop(NamedTuple):
  """Where an action ends: after one of the ids, or where its text holds one of the strings."""
  ids: tuple[int, ...] = ()
  strings: tuple[str, ...] = ()


class Request(NamedTuple):
  """One path that wants to speak: its whole context, its slot of last time (-1: none), its key and how to sample."""
  context: Sequence[int]
  slot: int
  key: np.ndarray                   # [2] u32
  sampling: dict
  room: int
  begun: int = 0                    # ids at the end of the context that belong to the action: a stop string may begin there


SMALL = 128   # slots shorter than this are always read whole: another program would cost more than it saves


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
  holder: np.ndarray                # [B]    the slot that holds the first ids of this one
  shared: np.ndarray                # [B]    how many of them; 0: its own
  params: Any = None                # the model's as the sampler reads them; None: made when it next does
  lanes: Sequence['Engine'] = ()    # engines whose arrays are parts of these
  threads: Any = None
  met: Any = None                   # (lock, the calls that have been compiled), common to all lanes
  clock: int = 0
  read: int = 0                     # ids read, padding not counted
  drawn: int = 0


@contextlib.contextmanager
def compiling(engine, *call):
  """Holds the lanes' lock while a call of this shape is made for the first time: two threads would compile it twice."""
  if engine.met is None or call in engine.met[1]:
    yield
  else:
    with engine.met[0]:
      yield
      engine.met[1].add(call)


def vacant(engine: Engine) -> int:
  """Slots that no path holds: how many new paths may speak in one call."""
  return int((~engine.busy).sum())


# ---- where a path lives ----------------------------------------------------------------------------------------------

def listen(engine, requests):
  """`[n]` a slot for every request, in which exactly its context has been read."""
  limits, slots = engine.limits, np.asarray([r.slot for r in requests], int)
  for r in requests:
    if not len(r.context):
      raise ValueError('an empty context: there must be at least one id before an action.')
    if len(r.context) + max(r.room, 1) > limits.width:
      raise ValueError(f'a context of {len(r.context)} ids and a turn of {r.room} do not fit the {limits.width} ids of a slot.')
  want, size = padded([r.context for r in requests], limits.width)
  engine.clock += 1
  engine.busy[slots[slots >= 0]] = True
  links, follows = _place(engine, want, size, slots)
  engine.used[slots] = engine.clock
  _link(engine, links)
  rank = np.zeros(len(requests), int)    # who follows nobody reads first, then those who follow these, and so on
  for i, leader in follows.items():      # leaders stand before their followers
    rank[i] = rank[leader] + 1
  for turn in range(rank.max(initial=-1) + 1):
    wave = np.flatnonzero(rank == turn)
    if turn:
      _link(engine, {slots[i]: (slots[j := follows[i]], min(int(_common(want[j], want[i])), int(size[j]))) for i in wave})
    at = slots[wave]
    common = np.minimum(_common(engine.known[at], want[wave]), engine.length[at])
    again = (common == size[wave]) & (engine.ready[at] != common)      # all is read, but the logits are gone
    for slot, kept in zip(at.tolist(), common.tolist()) if engine.shared.any() else ():
      _release(engine, slot, kept)
    engine.length[at] = common - again
    engine.shared[at] = np.minimum(engine.shared[at], engine.length[at])
    read(engine, at, want[wave], size[wave])
  return slots


def padded(contexts, width):
  """(`[n, S]` ids, -1 behind their end; `[n]` how many)."""
  size = np.asarray([len(c) for c in contexts], int)
  want = np.full((len(contexts), width), -1, np.int32)
  want[np.arange(width) < size[:, None]] = np.fromiter(itertools.chain.from_iterable(contexts), np.int32, size.sum())
  return want, size


def _place(engine, want, size, slots):
  """Fills in `slots` where there is none yet.

  A slot all of whose ids are wanted is continued. Otherwise the one used longest ago is taken, those that hold ids of others last,
  and what the context shares with another slot, or with an earlier context of this call, is linked if it is long enough.

  Returns:
    ({slot: (slot to link to, ids)}, {request: request to link to, once that has read}).
  """
  limits, new = engine.limits, np.flatnonzero(slots < 0).tolist()
  holds = np.zeros(limits.slots, bool)
  holds[engine.holder[engine.busy & (engine.shared > 0)]] = True
  order = np.lexsort((engine.used, holds, engine.busy))[:vacant(engine)]
  if len(new) > len(order):
    raise ValueError(f'{len(new)} new paths want to speak at once, {len(order)} of {limits.slots} slots are vacant.')
  open_slots = dict.fromkeys(order.tolist())     # in the order they were used
  links, follows, firsts, seen = {}, {}, [], {}
  for i in new:
    name = want[i].tobytes()
    if name in seen:
      (common, best, whole, leader), shared = seen[name], int(size[i])
    else:
      common = np.minimum(_common(engine.known, want[i]), engine.length)
      best = int(common.argmax())
      whole = np.flatnonzero((common == engine.length) & (common == common[best])).tolist() if common[best] else []
      leader, shared, common = -1, 0, common.tolist()
      if firsts:
        with_firsts = np.minimum(_common(want[firsts], want[i]), size[firsts])
        leader, shared = firsts[int(with_firsts.argmax())], int(with_firsts.max())
      seen[name] = common, best, whole, i
      firsts.append(i)
    slot = next((s for s in whole if s in open_slots), None)
    if slot is None:
      slot = next(iter(open_slots))
    have = common[slot]
    if common[best] >= limits.copy_from and common[best] > have:
      links[slot], have = (best, common[best]), common[best]
    if shared - have >= limits.copy_from:
      links.pop(slot, None)
      follows[i] = leader
    slots[i] = slot
    engine.busy[slot] = True
    del open_slots[slot]
  return links, follows


def _common(known, want):
  """`[B]` ids that each row of known has in common with want, from the start; a number where known is one row."""
  differs = known != (want[None] if want.ndim < known.ndim else want)
  return np.where(differs.any(-1), differs.argmax(-1), known.shape[-1])


def _link(engine, links):
  """Slots begin with ids of other slots: {slot: (other slot, ids)}. They are read where they lie.

  An other slot that reads its own first ids elsewhere hands that on; only what it has read behind them itself is copied. One that
  is itself about to begin anew has nothing to give: its ids are read again.
  """
  size = engine.limits.slots
  source, until, voice = np.arange(size, dtype=np.int32), np.zeros(size, np.int32), np.arange(size, dtype=np.int32)
  for slot in links:
    _release(engine, slot, 0)
    engine.length[slot] = engine.shared[slot] = 0
  for slot, (other, count) in links.items():
    if other in links or not (count := min(int(count), int(engine.length[other]))):
      continue
    if engine.shared[other] == 0:
      engine.holder[slot], engine.shared[slot] = other, count
    else:
      engine.holder[slot], engine.shared[slot] = engine.holder[other], min(count, engine.shared[other])
      if count > engine.shared[other]:
        source[slot], until[slot] = other, count
    voice[slot] = other
    engine.known[slot], engine.length[slot], engine.ready[slot] = engine.known[other], count, engine.ready[other]
  if until.any():
    _fork(engine, source, until, voice)
  elif (voice != np.arange(size)).any():
    with compiling(engine, 'echo'):
      engine.slots = engine.sampler.echo(engine.slots, voice)


def _fork(engine, source, until, voice):
  with compiling(engine, 'fork'):
    engine.slots = engine.sampler.fork(engine.slots, source, until, voice)


def _release(engine, slot, kept):
  """The slot is about to lose what it holds behind its first `kept` ids: who reads it there gets it elsewhere.

  Of the paths that still need it, the one that shares most becomes the holder of the others; what nobody needs is forgotten.
  """
  users = np.flatnonzero((engine.holder == slot) & (engine.shared > kept))
  users = users[users != slot]
  idle = users[~engine.busy[users]]
  engine.length[idle] = np.minimum(engine.length[idle], kept)
  engine.shared[idle] = kept
  users = users[engine.busy[users]]
  if len(users):
    heir, every = users[engine.shared[users].argmax()], np.arange(engine.limits.slots, dtype=np.int32)
    source, until = every.copy(), np.zeros(len(every), np.int32)
    source[heir], until[heir] = slot, engine.shared[heir]
    _fork(engine, source, until, every)
    engine.holder[users], engine.shared[heir] = heir, 0


def view(engine, at, size):
  """What the rows of a call look back on: (sharing, window) and (width, reach), for slots `at` `[n]` padded to `size` rows."""
  n, limits, shared = len(at), engine.limits, engine.shared[at]
  if not shared.any():
    return (dict(sharing=None, window=np.int32(0)),
            dict(width=_span(limits, int(engine.length[at].max(initial=0))), reach=None))
  base, holder = np.zeros(size, np.int32), engine.holder[at]
  base[:n] = shared
  for i in np.flatnonzero(np.isin(at, holder[shared > 0])):   # who holds what others read now reads it with them, not alone
    base[i], holder[i] = min(shared[(holder == at[i]) & (shared > 0)].max(), engine.length[at[i]]), at[i]
  own = np.flatnonzero(engine.length[at] > base[:n])     # rows that have read something themselves
  first = int(base[own].min(initial=limits.width))
  width = _span(limits, int(engine.length[at[own]].max(initial=first)) - first)
  lines, place = [], np.zeros(size, np.int32)
  for slot in dict.fromkeys(holder[base[:n] > 0].tolist()):
    rows = np.flatnonzero((holder == slot) & (base[:n] > 0))
    lines += [(slot, rows[i:i + limits.share]) for i in range(0, len(rows), limits.share)]
  fewest = -(-size // limits.share)
  count = fewest if len(lines) <= fewest else size
  slot, member = np.zeros(count, np.int32), np.zeros((count, limits.share), np.int32)
  for i, (holder, rows) in enumerate(lines):
    slot[i], member[i, :len(rows)], place[rows] = holder, rows, i * limits.share + np.arange(len(rows))
  return (dict(sharing=sampling.Sharing(slot, member, place, base), window=np.int32(first)),
          dict(width=width, reach=_span(limits, int(base.max()), 64)))


def shape(look):
  return None if look['sharing'] is None else look['sharing'].member.shape


def _span(limits, n, least=128):
  """`n` ids rounded up to what is compiled: none (where slots are not small), `least` times a power of two, or all of a slot."""
  choices = [0] * (limits.width >= SMALL) + [least << i for i in range(16) if least << i < limits.width] + [limits.width]
  return next(w for w in choices if w >= n)


# ---- reading ---------------------------------------------------------------------------------------------------------

def read(engine, slots, want, size, score=False):
  """Reads what is new of each context, a chunk at a time; with `score` returns its log-probabilities."""
  place = np.arange(engine.limits.chunk)
  scores = [[np.zeros(0, np.float32)] for _ in slots]
  note(engine, slots, np.zeros_like(size), want, size)
  while len(rows := np.flatnonzero(engine.length[slots] < size)):
    n, b, at = len(rows), bucket(engine.limits, len(rows), reading=True), slots[rows]
    start = engine.length[at]
    index, count = np.full(b, engine.limits.slots, np.int32), np.zeros(b, np.int32)
    index[:n], count[:n] = at, np.minimum(size[rows] - start, len(place))
    ids = np.zeros((b, len(place)), np.int32)
    i, j = np.nonzero(place < count[:, None])
    ids[i, j] = want[rows[i], start[i] + j]
    look, sizes = view(engine, at, b)
    with compiling(engine, 'extend', b, score, shape(look), *sizes.values()):
      engine.slots, logp = engine.sampler.extend(params(engine), current(engine), index, ids, count, **look, **sizes, score=score)
    if score:
      for row, values, c in zip(rows, np.asarray(logp), count):
        scores[row].append(values[:c])
    engine.length[at] = engine.ready[at] = start + count[:n]
    engine.read += int(count.sum())
  return [np.concatenate(s) for s in scores] if score else None


def note(engine, slots, at, ids, count):
  """Notes what slots have read: `count` [n] of ids `[n, m]`, from position `at` [n] on."""
  i, j = np.nonzero(np.arange(ids.shape[1]) < count[:, None])
  engine.known[slots[i], at[i] + j] = ids[i, j]


def params(engine):
  if engine.params is None:
    engine.params = engine.sampler.prepare(engine.model.params)
  return engine.params


def current(engine):
  """The slots with the lengths the host has decided on.

  A copy by numpy, since calls run later than they are made and may read the host's own memory, also through `jnp.array`.
  """
  return dataclasses.replace(engine.slots, length=engine.length.copy())


def bucket(limits, n, reading=False):
  """Rows that are computed for n. A prompt is read by one path for all that share it, so reading has a smaller size of its own."""
  few = {-(-limits.slots // limits.share)} if reading and limits.width >= SMALL else set()
  return next(b for b in sorted({*limits.buckets, limits.slots} | few) if b >= n)
