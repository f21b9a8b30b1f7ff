"""A model's slots: which ids each slot has read, and one call that lets many paths speak.

A context is looked up by its ids: the slot that has read the longest common prefix is continued, and only the rest is read. Another
path that begins with the same ids reads them where they lie: its slot names the one that holds its first `shared` ids, and the rows
of one holder meet its keys together. Paths of one call that begin alike read that part once. So an episode never reads its own past
again, branches of a tree and the answers to one prompt share it, and correctness does not depend on what is warm.
"""

import concurrent.futures
import threading
from collections.abc import Sequence

import jax
import numpy as np

from rlx.grow import _slots, sampling
from rlx.grow._drawing import SETTINGS, Speech, draw, segment, truncates
from rlx.grow._slots import SMALL, Engine, Limits, Request, Stop, vacant
from rlx.types import Model

__all__ = ['SETTINGS', 'SMALL', 'Engine', 'Limits', 'Request', 'Speech', 'Stop', 'compiles', 'create', 'free', 'keys', 'refresh',
           'sampler', 'score', 'segment', 'speak', 'truncates', 'vacant']


def sampler(policy, limits: Limits, stop: Stop):
  """The compiled functions that go with these limits; made once a run, so that they survive new parameters."""
  return sampling.make(policy, limit=segment(limits, stop), stop_ids=stop.ids)


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


def speak(engine: Engine, requests: Sequence[Request]) -> list[Speech]:
  """One turn of every request: contexts are read as far as they are new, then actions are drawn together.

  Raises:
    ValueError: a context that is empty or does not fit the slots, or more new paths than vacant slots.
  """
  if not engine.lanes:
    return draw(engine, _slots.listen(engine, requests), requests)
  size, out = engine.lanes[0].limits.slots, [None] * len(requests)

  def one(lane, base, part):
    mine = [requests[i]._replace(slot=requests[i].slot - base if requests[i].slot >= 0 else -1) for i in part]
    for i, speech in zip(part, speak(lane, mine), strict=True):
      out[i] = speech._replace(slot=speech.slot + base)
  _together(engine, [(lane, k * size, part) for k, (lane, part) in enumerate(zip(engine.lanes, _split(engine, requests)))], one)
  engine.drawn, engine.read = (sum(getattr(lane, name) for lane in engine.lanes) for name in ('drawn', 'read'))
  return out


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
    slots = _slots.listen(engine, [Request(c, -1, np.zeros(2, np.uint32), {}, len(t)) for c, t in zip(part, tails, strict=True)])
    out += _slots.read(engine, slots, *_slots.padded([[*c, *t] for c, t in zip(part, tails, strict=True)], engine.limits.width), score=True)
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


# ---- lanes -----------------------------------------------------------------------------------------------------------

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


def _score_in_lanes(engine, contexts, suffixes):
  lanes = [lane for lane in engine.lanes if vacant(lane)] or engine.lanes[:1]
  out, share = [None] * len(contexts), max(-(-len(contexts) // len(lanes)), 1)

  def one(lane, _, part):
    for i, logp in zip(part, score(lane, [contexts[i] for i in part], [suffixes[i] for i in part]), strict=True):
      out[i] = logp
  _together(engine, [(lane, 0, range(len(contexts))[k * share:(k + 1) * share]) for k, lane in enumerate(lanes)], one)
  engine.read = sum(lane.read for lane in engine.lanes)
  return out


def _together(engine, jobs, f):
  """f(*job) of every job with requests, each in a thread."""
  if engine.params is None:
    engine.params = _slots.params(engine)
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
