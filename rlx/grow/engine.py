"""A model's slots: which ids each slot has read, and one call that lets many paths speak.

A context is looked up by its ids: the slot that has read the longest common prefix is continued, and only the rest is read. Another
path that begins with the same ids reads them where they lie: its slot names the one that holds its first `shared` ids, and the rows
of one holder meet its keys together. Paths of one call that begin alike read that part once. So an episode never reads its own past
again, branches of a tree and the answers to one prompt share it, and correctness does not depend on what is warm.
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rlx.grow import sampling
from rlx.grow.tokenizer import body
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
SMALL = 128   # slots shorter than this are always read whole: another program would cost more than it saves


def segment(limits: Limits, stop: Stop) -> int:
  """Ids drawn in one call."""
  return min(limits.segment or (SEGMENT if stop.strings else limits.turn), limits.turn)


def sampler(policy, limits: Limits, stop: Stop):
  """The compiled functions that go with these limits; made once a run, so that they survive new parameters."""
  return sampling.make(policy, limit=segment(limits, stop), stop_ids=stop.ids)


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


def create(model: Model, limits: Limits, stop: Stop) -> Engine:
  """Empty slots, and the compiled functions of the sampler."""
  B, S, made, where = limits.slots, limits.width, sampler(model.policy, limits, stop), _mesh(model)
  if B % limits.lanes:
    raise ValueError(f'{limits.lanes} lanes do not divide {B} slots.')
  if where is not None and where.mesh.size > 1:      # two programs of several devices at once may wait for each other
    limits = limits._replace(lanes=1)
  n, met = B // limits.lanes, (threading.Lock(), set())
  host = [np.zeros((B, S), np.int32), np.zeros(B, np.int32), np.full(B, -1, np.int32), np.zeros(B, bool), np.zeros(B, np.int64),
          np.arange(B, dtype=np.int32) % n, np.zeros(B, np.int32)]

  def one(limits, host, met=None):
    slots = made.empty(limits.slots, S)
    slots = slots if where is None else jax.device_put(slots, jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec()))
    return Engine(model, limits, stop, made, slots, *host, met=met)
  if limits.lanes == 1:
    return one(limits, host)
  own = limits._replace(slots=n, lanes=1, buckets=tuple(dict.fromkeys(-(-b // limits.lanes) for b in limits.buckets)))
  lanes = [one(own, [x[i:i + n] for x in host], met) for i in range(0, B, n)]
  return Engine(model, limits, stop, made, None, *host, lanes=lanes, threads=concurrent.futures.ThreadPoolExecutor(limits.lanes, 'lane'))


def _mesh(model):
  """Where the parameters live on a mesh, else None: slots elsewhere would make the first call compile for a place of its own."""
  where = getattr(next(iter(jax.tree.leaves(model.params)), None), 'sharding', None)
  return where if isinstance(where, jax.sharding.NamedSharding) else None


def refresh(engine: Engine, params) -> None:
  """New parameters: what was read with the old ones is forgotten, and which slot was used when."""
  engine.model, engine.params = engine.model._replace(params=params), None
  engine.length[:] = engine.shared[:] = 0
  engine.ready[:] = -1
  engine.busy[:] = False
  engine.used[:] = 0
  engine.clock = 0
  for lane in engine.lanes:
    lane.model, lane.params, lane.clock = engine.model, None, 0


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
  if not engine.lanes:
    return _draw(engine, _listen(engine, requests), requests)
  size, out = engine.lanes[0].limits.slots, [None] * len(requests)

  def one(lane, base, part):
    mine = [requests[i]._replace(slot=requests[i].slot - base if requests[i].slot >= 0 else -1) for i in part]
    for i, speech in zip(part, speak(lane, mine), strict=True):
      out[i] = speech._replace(slot=speech.slot + base)
  _together(engine, [(lane, k * size, part) for k, (lane, part) in enumerate(zip(engine.lanes, _split(engine, requests)))], one)
  engine.drawn, engine.read = (sum(getattr(lane, name) for lane in engine.lanes) for name in ('drawn', 'read'))
  return out


def _split(engine, requests):
  """Which requests each lane takes: a path stays in its lane; new ones fill up one lane after the other, neighbours together."""
  size, new = engine.lanes[0].limits.slots, [i for i, r in enumerate(requests) if r.slot < 0]
  parts = [[i for i, r in enumerate(requests) if r.slot // size == k] for k in range(len(engine.lanes))]
  open_slots = [vacant(lane) - sum(not lane.busy[requests[i].slot % size] for i in part) for lane, part in zip(engine.lanes, parts)]
  if len(new) > sum(open_slots):
    raise ValueError(f'{len(new)} new paths want to speak at once, {sum(open_slots)} of {engine.limits.slots} slots are vacant.')
  fair = -(-len(requests) // len(parts))
  for limit in (fair, len(requests)):        # what a full lane cannot take goes where there is room
    for part, room in zip(parts, open_slots):
      take = min(len(new), room - sum(requests[i].slot < 0 for i in part), max(limit - len(part), 0))
      part += new[:take]
      del new[:take]
  return [sorted(part) for part in parts]


def _together(engine, jobs, f):
  """f(*job) of every job with requests, each in a thread."""
  if engine.params is None:
    engine.params = _params(engine)
  for lane in engine.lanes:
    lane.params = engine.params
  jobs = [job for job in jobs if len(job[2])]
  if len(jobs) == 1:
    f(*jobs[0])
  else:
    threads = [engine.threads.submit(f, *job) for job in jobs]
    concurrent.futures.wait(threads)      # an error of one lane is raised when no lane works any more
    for done in threads:
      done.result()


def score(engine: Engine, contexts: Sequence[Sequence[int]], suffixes: Sequence[Sequence[int]]) -> list[np.ndarray]:
  """Log-probabilities of forced ids: `[len(suffix)]` each, at temperature 1, on the warm cache.

  Raises:
    ValueError: as `speak` does.
  """
  if engine.lanes:
    return _score_in_lanes(engine, contexts, suffixes)
  out = []
  while len(out) < len(contexts):
    now = slice(len(out), len(out) + max(vacant(engine), 1))
    part, tails = contexts[now], suffixes[now]
    slots = _listen(engine, [Request(c, -1, np.zeros(2, np.uint32), {}, len(t)) for c, t in zip(part, tails, strict=True)])
    out += _read(engine, slots, *_padded([[*c, *t] for c, t in zip(part, tails, strict=True)], engine.limits.width), score=True)
    for s in slots:
      free(engine, s)
  return out


def _score_in_lanes(engine, contexts, suffixes):
  lanes = [lane for lane in engine.lanes if vacant(lane)] or engine.lanes[:1]
  out, share = [None] * len(contexts), max(-(-len(contexts) // len(lanes)), 1)

  def one(lane, _, part):
    for i, logp in zip(part, score(lane, [contexts[i] for i in part], [suffixes[i] for i in part]), strict=True):
      out[i] = logp
  _together(engine, [(lane, 0, range(len(contexts))[k * share:(k + 1) * share]) for k, lane in enumerate(lanes)], one)
  engine.read = sum(lane.read for lane in engine.lanes)
  return out


@contextlib.contextmanager
def _compiling(engine, *call):
  """Holds the lanes' lock while a call of this shape is made for the first time: two threads would compile it twice."""
  if engine.met is None or call in engine.met[1]:
    yield
  else:
    with engine.met[0]:
      yield
      engine.met[1].add(call)


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
  """`[n]` a slot for every request, in which exactly its context has been read."""
  limits, slots = engine.limits, np.asarray([r.slot for r in requests], int)
  for r in requests:
    if not len(r.context):
      raise ValueError('an empty context: there must be at least one id before an action.')
    if len(r.context) + max(r.room, 1) > limits.width:
      raise ValueError(f'a context of {len(r.context)} ids and a turn of {r.room} do not fit the {limits.width} ids of a slot.')
  want, size = _padded([r.context for r in requests], limits.width)
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
    _read(engine, at, want[wave], size[wave])
  return slots


def _padded(contexts, width):
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
    with _compiling(engine, 'echo'):
      engine.slots = engine.sampler.echo(engine.slots, voice)


def _fork(engine, source, until, voice):
  with _compiling(engine, 'fork'):
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


def _view(engine, at, size):
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


def _shape(look):
  return None if look['sharing'] is None else look['sharing'].member.shape


def _span(limits, n, least=128):
  """`n` ids rounded up to what is compiled: none (where slots are not small), `least` times a power of two, or all of a slot."""
  choices = [0] * (limits.width >= SMALL) + [least << i for i in range(16) if least << i < limits.width] + [limits.width]
  return next(w for w in choices if w >= n)


# ---- reading ---------------------------------------------------------------------------------------------------------

def _read(engine, slots, want, size, score=False):
  """Reads what is new of each context, a chunk at a time; with `score` returns its log-probabilities."""
  place = np.arange(engine.limits.chunk)
  scores = [[np.zeros(0, np.float32)] for _ in slots]
  _note(engine, slots, np.zeros_like(size), want, size)
  while len(rows := np.flatnonzero(engine.length[slots] < size)):
    n, b, at = len(rows), _bucket(engine.limits, len(rows), reading=True), slots[rows]
    start = engine.length[at]
    index, count = np.full(b, engine.limits.slots, np.int32), np.zeros(b, np.int32)
    index[:n], count[:n] = at, np.minimum(size[rows] - start, len(place))
    ids = np.zeros((b, len(place)), np.int32)
    i, j = np.nonzero(place < count[:, None])
    ids[i, j] = want[rows[i], start[i] + j]
    look, sizes = _view(engine, at, b)
    with _compiling(engine, 'extend', b, score, _shape(look), *sizes.values()):
      engine.slots, logp = engine.sampler.extend(_params(engine), _current(engine), index, ids, count, **look, **sizes, score=score)
    if score:
      for row, values, c in zip(rows, np.asarray(logp), count):
        scores[row].append(values[:c])
    engine.length[at] = engine.ready[at] = start + count[:n]
    engine.read += int(count.sum())
  return [np.concatenate(s) for s in scores] if score else None


def _note(engine, slots, at, ids, count):
  """Notes what slots have read: `count` [n] of ids `[n, m]`, from position `at` [n] on."""
  i, j = np.nonzero(np.arange(ids.shape[1]) < count[:, None])
  engine.known[slots[i], at[i] + j] = ids[i, j]


def _params(engine):
  if engine.params is None:
    engine.params = engine.sampler.prepare(engine.model.params)
  return engine.params


def _current(engine):
  """The slots with the lengths the host has decided on.

  A copy by numpy, since calls run later than they are made and may read the host's own memory, also through `jnp.array`.
  """
  return dataclasses.replace(engine.slots, length=engine.length.copy())


def _bucket(limits, n, reading=False):
  """Rows that are computed for n. A prompt is read by one path for all that share it, so reading has a smaller size of its own."""
  few = {-(-limits.slots // limits.share)} if reading and limits.width >= SMALL else set()
  return next(b for b in sorted({*limits.buckets, limits.slots} | few) if b >= n)


# ---- drawing ---------------------------------------------------------------------------------------------------------

SETTINGS = dict(temperature=(1., np.float32), top_k=(0, np.int32), top_p=(1., np.float32), min_p=(0., np.float32))


def _draw(engine, slots, requests):
  """Draws every action to its stop, a segment a call; what was drawn beyond a stop string is forgotten."""
  limits, tok = engine.limits, engine.model.tokenizer
  step = segment(limits, engine.stop)
  ids, numbers = [[] for _ in requests], [[] for _ in requests]
  done, todo = [False] * len(requests), list(range(len(requests)))
  while todo:
    n, b, at = len(todo), _bucket(limits, len(todo)), slots[todo]
    index, room = np.full(b, limits.slots, np.int32), np.zeros(b, np.int32)
    draw_keys = np.zeros((b, 2), np.uint32)
    index[:n], draw_keys[:n] = at, [requests[i].key for i in todo]
    room[:n] = [min(requests[i].room - len(ids[i]), step) for i in todo]
    columns, truncated = _settings([requests[i].sampling for i in todo], b)
    look, sizes = _view(engine, at, b)
    with _compiling(engine, 'decode', b, truncated, _shape(look), *sizes.values()):
      engine.slots, out = engine.sampler.decode(_params(engine), _current(engine), index, room > 0, room, draw_keys, columns, **look,
                                                **sizes, truncated=truncated)
    out = jax.device_get(out)
    start, count = engine.length[at], out.count[:n]
    _note(engine, at, start, out.ids[:n], count)
    engine.length[at] = engine.ready[at] = start + count
    engine.drawn += int(count.sum())
    still = []
    for j, (i, c) in enumerate(zip(todo, count.tolist(), strict=True)):
      ids[i] += out.ids[j, :c].tolist()
      numbers[i].append((out.logp[j, :c], out.entropy[j, :c], out.sampler_logp[j, :c]))
      keep = _stop_at(tok, requests[i], ids[i], engine.stop.strings) if engine.stop.strings else None
      if keep is not None:
        engine.length[slots[i]] -= len(ids[i]) - keep
        del ids[i][keep:]
      done[i] = keep is not None or bool(out.stopped[j])
      if not done[i] and len(ids[i]) < requests[i].room:
        still.append(i)
    todo = still
  out = []
  for slot, one, parts, text, stopped in zip(slots.tolist(), ids, numbers, tok.decode_batch([body(i, tok) for i in ids]), done, strict=True):
    columns = parts[0] if len(parts) == 1 else [np.concatenate(c) for c in zip(*parts, strict=True)]
    if len(columns[0]) > len(one):
      columns = [c[:len(one)] for c in columns]
    out.append(Speech(slot, one, *columns, text, stopped))
  return out


def truncates(how) -> bool:
  """Whether keywords of sampling leave any token out, so that `sampler_logp` differs from `logp`."""
  return how.get('top_k', 0) > 0 or how.get('top_p', 1.) < 1 or how.get('min_p', 0.) > 0


def _settings(how, size):
  """(`sampling.Sampling` of `size` rows, whether any truncates) from each row's keywords."""
  columns = {k: np.full(size, fill, dtype) for k, (fill, dtype) in SETTINGS.items()}
  distinct = {id(h): h for h in how}.values()
  for k in {k for h in distinct for k in h}:
    columns[k][:len(how)] = [h.get(k, SETTINGS[k][0]) for h in how]
  return sampling.Sampling(**columns), any(map(truncates, distinct))


def _stop_at(tok, request, ids, strings):
  """The number of drawn ids up to and including the first stop string; None if there is none.

  A string that begins in what the action had already said counts; one that ends there does not.
  """
  if not ids:
    return None
  said = list(request.context[len(request.context) - request.begun:])
  old = len(tok.decode(said)) if said else 0
  def holds(n):
    text = tok.decode([*said, *ids[:n]])
    return any(s in text[max(old - len(s) + 1, 0):] for s in strings)
  return next((n for n in range(1, len(ids) + 1) if holds(n)), None) if holds(len(ids)) else None
