"""Drawing actions for slots that have read their contexts: a segment a call, to a stop id or a stop string."""

from typing import NamedTuple

import jax
import numpy as np

from rlx.grow import _slots, sampling
from rlx.grow.tokenizer import body


class Speech(NamedTuple):
  """What was drawn for a request."""
  slot: int
  ids: list[int]
  logp: np.ndarray                  # [n] f32
  entropy: np.ndarray
  sampler_logp: np.ndarray
  text: str
  stopped: bool                     # False: the room was used up


SEGMENT = 8   # ids drawn between two looks for a stop string
SETTINGS = dict(temperature=(1., np.float32), top_k=(0, np.int32), top_p=(1., np.float32), min_p=(0., np.float32))


def segment(limits: _slots.Limits, stop: _slots.Stop) -> int:
  """Ids drawn in one call."""
  return min(limits.segment or (SEGMENT if stop.strings else limits.turn), limits.turn)


def draw(engine, slots, requests):
  """Draws every action to its stop, a segment a call; what was drawn beyond a stop string is forgotten."""
  limits, tok = engine.limits, engine.model.tokenizer
  step = segment(limits, engine.stop)
  ids, numbers = [[] for _ in requests], [[] for _ in requests]
  done, todo = [False] * len(requests), list(range(len(requests)))
  while todo:
    n, b, at = len(todo), _slots.bucket(limits, len(todo)), slots[todo]
    index, room = np.full(b, limits.slots, np.int32), np.zeros(b, np.int32)
    draw_keys = np.zeros((b, 2), np.uint32)
    index[:n], draw_keys[:n] = at, [requests[i].key for i in todo]
    room[:n] = [min(requests[i].room - len(ids[i]), step) for i in todo]
    columns, truncated = _settings([requests[i].sampling for i in todo], b)
    look, sizes = _slots.view(engine, at, b)
    with _slots.compiling(engine, 'decode', b, truncated, _slots.shape(look), *sizes.values()):
      engine.slots, out = engine.sampler.decode(_slots.params(engine), _slots.current(engine), index, room > 0, room, draw_keys, columns, **look,
                                                **sizes, truncated=truncated)
    out = jax.device_get(out)
    start, count = engine.length[at], out.count[:n]
    _slots.note(engine, at, start, out.ids[:n], count)
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
