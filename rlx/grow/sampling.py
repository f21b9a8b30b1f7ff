"""Sampling with a warm cache: prompts and observations are fed in chunks, turns are drawn token by token, all inside jit.

A *slot* holds the keys and values of one sequence. The host names the slots of each call by `rows`, an index array of one of
a few sizes (buckets), so that finished rows stop costing: only the named slots are computed. Nothing is synchronised with the
host inside a turn. What a slot draws depends on its key and its own tokens alone.

Dims: `B` slots, `b` rows of a call, `C` tokens of a chunk, `G` = limit, tokens of a turn, `V` vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlx.models.cached import Cache, Shared, prepared, tables
from rlx.types import Array, Policy, struct


class Sampling(NamedTuple):
  """How each row draws. The truncations apply in this order, each to what the one before left."""
  temperature: Array   # [b] f32  0: the most probable token
  top_k: Array         # [b] i32  the k most probable tokens; 0: all
  top_p: Array         # [b] f32  the fewest most probable tokens that hold p; 1: all
  min_p: Array         # [b] f32  tokens at least min_p times as probable as the most probable; 0: all


@struct
class Slots:
  """What the sampler remembers of `B` sequences.

  `length` may be replaced by the host: 0 starts a sequence anew, less takes tokens back. At least one token must be fed
  before the next draw then, since `logits` still belong to what was taken back.
  """
  cache: list     # a layer: (k, v), each [B, K, S, Dh]
  length: Array   # [B] i32
  logits: Array   # [B, V] f32  of the next token


@struct
class Drawn:
  """One turn of each row; beyond `count` everything is 0."""
  ids: Array            # [b, G] i32  the stop id included
  logp: Array           # [b, G] f32  at the sampling temperature, untruncated (at temperature 1 where that is 0)
  entropy: Array        # [b, G] f32  nats, of the same distribution
  sampler_logp: Array   # [b, G] f32  under the truncated distribution
  count: Array          # [b] i32
  stopped: Array        # [b] bool  the last token is a stop id


class Sharing(NamedTuple):
  """Which rows of a call begin with the same tokens, and in whose slot these lie. Rows of one slot stand in one line of a grid."""
  slot: Array     # [P] i32  slot of each line; any where nobody stands in it
  member: Array   # [P, n] i32  row of the call at each place; any where nobody stands
  place: Array    # [b] i32  where a row stands in the flattened grid
  base: Array     # [b] i32  tokens it shares; 0: none


class Sampler(NamedTuple):
  """The functions of this module, bound to a policy and jitted; made once, so that compilations survive new parameters."""
  prepare: Callable  # (params) -> params as the other functions read them; they take either
  empty: Callable    # (slots, width) -> Slots
  extend: Callable   # (params, slots, rows, ids, count, sharing, window, *, score, width, reach) -> (Slots, logp)
  decode: Callable   # (params, slots, rows, active, room, keys, sampling, sharing, window, *, truncated, width, reach) -> (Slots, Drawn)
  fork: Callable     # (slots, source, until, voice) -> Slots
  echo: Callable     # (slots, voice) -> Slots


def make(policy: Policy, *, limit: int, stop_ids: Sequence[int]) -> Sampler:
  """The sampler of a policy. The slots given to `extend`, `decode`, `fork` and `echo` are donated: use what they return."""
  jit = lambda f, *static: jax.jit(f, static_argnames=static, donate_argnames='slots')
  return Sampler(
      _prepare(policy), functools.partial(empty, policy),
      jit(functools.partial(extend, policy), 'score', 'width', 'reach'),
      jit(functools.partial(decode, policy, limit=limit, stop_ids=tuple(stop_ids)), 'truncated', 'width', 'reach'),
      jit(fork), jit(echo))


def _prepare(policy):
  """`prepared`, jitted; a table that is in the dtype of the computation is not copied."""
  ready = jax.jit(functools.partial(prepared, policy.config))

  def prepare(params):
    if params['embed']['table'].dtype != policy.config.dtype:
      return ready(params)
    return dict(ready(dict(params, embed={})), embed=params['embed'])
  return prepare


def settings(rows: int, *, temperature: float = 1., top_k: int = 0, top_p: float = 1., min_p: float = 0.) -> Sampling:
  """The same settings for every row, as numpy arrays."""
  return Sampling(np.full(rows, temperature, np.float32), np.full(rows, top_k, np.int32),
                  np.full(rows, top_p, np.float32), np.full(rows, min_p, np.float32))


def empty(policy: Policy, slots: int, width: int, *, dtype: str | None = None) -> Slots:
  """Slots of `width` tokens each, nothing in them. dtype: of the cache; None: the policy's."""
  return Slots(cache=tables(policy.config, slots, width, dtype), length=jnp.zeros(slots, jnp.int32),
               logits=jnp.zeros((slots, policy.config.vocab), jnp.float32))


def extend(policy: Policy, params, slots: Slots, rows: Array, ids: Array, count: Array, sharing: Sharing | None = None,
           window: Array | int = 0, *, score: bool = False, width: int | None = None,
           reach: int | None = None) -> tuple[Slots, Array | None]:
  """Feeds a chunk of prompt, observation or forced text.

  Args:
    policy: the model.
    params: its parameters, prepared or not.
    slots: the state.
    rows: `[b]` i32 distinct slots; entries equal to `B` are padding and do nothing.
    ids: `[b, C]` i32.
    count: `[b]` i32 tokens of each row that are real; those of a row with none are left as they were. The caller sees to it
      that length + count stays within the slots' width.
    score: also return the log-probability of each token (costs the head on every token).
    sharing: what rows read in another row's slot instead of their own: the first `base` tokens. None: nothing.
    window: i32 scalar, may be traced: the first token any named row reads in its own slot.
    width: tokens behind `window` that are read of a named slot: what they hold in front of it or behind is not seen. None: all.
    reach: tokens of a shared stretch that are read; at least the largest `base`. None: all.

  Returns:
    (slots, logp `[b, C]` f32 at temperature 1, 0 beyond count; None without `score`).
  """
  chex.assert_rank((rows, ids, count), (1, 2, 1))
  params = prepared(policy.config, params)
  slot, pull, push = _order(rows, slots)
  size = ids.shape[1]
  cache, length, old = _cache(policy, slots, slot, size, sharing, pull, push, window, width, reach)
  ids, count = pull(ids), pull(count)
  place = jnp.arange(size, dtype=jnp.int32)[None]
  ends = jnp.maximum(count - 1, 0)[:, None]
  hidden, cache = policy.apply(params, ids, length[:, None] + place, jnp.where(place < count[:, None], size, 0), cache,
                               pick=None if score else ends)
  head, logp = policy.head(params), None
  if score:
    after = lambda h_next: _logp(_logits(h_next[0], head), h_next[1])
    logp = jax.lax.map(after, (jnp.swapaxes(hidden[:, :-1], 0, 1), ids[:, 1:].T)).T
    logp = jnp.concatenate([_logp(old.T, ids[:, 0])[:, None], logp], axis=1)
    logp = push(jnp.where((place < count[:, None]) & (slot < slots.length.shape[0])[:, None], logp, 0.))
    hidden = jnp.take_along_axis(hidden, ends[..., None], axis=1)
  logits = jnp.dot(hidden[:, 0], head, preferred_element_type=jnp.float32)   # XLA cannot transpose the other product in bfloat16
  return _write(slots, slot, cache.turn, length, count, logits), logp


def decode(policy: Policy, params, slots: Slots, rows: Array, active: Array, room: Array, keys: Array, sampling: Sampling,
           sharing: Sharing | None = None, window: Array | int = 0, *, limit: int, stop_ids: tuple, truncated: bool = False,
           width: int | None = None, reach: int | None = None) -> tuple[Slots, Drawn]:
  """Draws one turn for every active row: up to a stop id, `room` tokens, `limit` tokens, or the slot's width.

  The token at position p of a row is drawn with fold_in(key, p), so a turn may be cut in several calls, and neither the
  neighbours, nor the number of slots, nor that of rows change what a row draws.

  Args:
    policy: the model.
    params: its parameters, prepared or not.
    slots: the state.
    rows: `[b]` i32 distinct slots; entries equal to `B` are padding and do nothing.
    active: `[b]` bool; the other rows are left as they were.
    room: `[b]` i32 most tokens of each row.
    keys: `[b, 2]` u32 threefry keys.
    sampling: `[b]` settings.
    limit: most tokens of a turn, `G`.
    stop_ids: a turn ends after one of these.
    truncated: top_k, top_p and min_p are looked at (a sort of the vocabulary for every token).
    sharing, window, width, reach: as in `extend`.
  """
  chex.assert_rank((rows, active, room, keys), (1, 1, 1, 2))
  params = prepared(policy.config, params)
  head = policy.head(params)
  slot, pull, push = _order(rows, slots)
  cache, length, logits = _cache(policy, slots, slot, limit, sharing, pull, push, window, width, reach)
  room = jnp.minimum(pull(room), slots.cache[0][0].shape[2] - length)
  done = ~pull(active) | (slot >= slots.length.shape[0]) | (room <= 0)
  sampling = jax.tree.map(pull, sampling)
  n, stops = length.shape[0], jnp.asarray(stop_ids, jnp.int32)[None]
  draws = _uniform(pull(keys), length[:, None] + jnp.arange(limit, dtype=jnp.int32)[None])
  alone = jnp.ones((n, 1), jnp.int32)

  def body(state):
    i, logits, done, count, turn, drawn = state
    token, *numbers = _draw(logits, draws[i], sampling, truncated)
    token = jnp.where(done, 0, token)
    drawn = [jax.lax.dynamic_update_slice(x, y[None], (i, 0)) for x, y in zip(drawn, (token, *numbers))]
    hidden, after = policy.apply(params, token[:, None], (length + i)[:, None], alone,
                                 dataclasses.replace(cache, turn=turn, filled=i))
    logits = jnp.where(done[None], logits, _logits(hidden[:, 0], head))
    count = count + (~done).astype(jnp.int32)
    done = done | (token[:, None] == stops).any(1) | (count >= room)
    return i + 1, logits, done, count, after.turn, drawn

  drawn = [jnp.zeros((limit, n), jnp.int32)] + [jnp.zeros((limit, n), jnp.float32)] * (3 if truncated else 2)
  start = jnp.int32(0), logits.T, done, jnp.zeros(n, jnp.int32), cache.turn, drawn
  _, logits, _, count, turn, drawn = jax.lax.while_loop(lambda s: (s[0] < limit) & ~s[2].all(), body, start)
  place = jnp.arange(limit, dtype=jnp.int32)[None]
  ids, logp, entropy, *rest = (push(jnp.where(place < count[:, None], x.T, jnp.zeros((), x.dtype))) for x in drawn)
  final = jnp.take_along_axis(ids, jnp.maximum(push(count) - 1, 0)[:, None], axis=1)
  return _write(slots, slot, turn, length, count, logits.T), Drawn(
      ids=ids, logp=logp, entropy=entropy, sampler_logp=rest[0] if truncated else logp, count=push(count),
      stopped=(push(count) > 0) & (final == stops).any(1))


def fork(slots: Slots, source: Array, until: Array, voice: Array) -> Slots:
  """The first `until[i]` tokens of slot i become those of slot `source[i]`, and its logits those of slot `voice[i]`. All `[B]` i32.

  Lengths are left to the host.
  """
  take = lambda x, i: jnp.take(x, i, axis=0, mode='clip')
  at = jnp.arange(slots.cache[0][0].shape[2], dtype=jnp.int32)[None] < until[:, None]
  cache = jax.tree.map(lambda x: jnp.where(at[:, None, :, None], take(x, source), x), slots.cache)
  return Slots(cache=cache, length=slots.length, logits=take(slots.logits, voice))


def echo(slots: Slots, voice: Array) -> Slots:
  """The logits of slot i become those of slot `voice[i]`, `[B]` i32; its tokens stay."""
  return dataclasses.replace(slots, logits=jnp.take(slots.logits, voice, axis=0, mode='clip'))


# ---- rows of a call ------------------------------------------------------------------------------------------------

def _order(rows, slots):
  """(slot of each computed row, its inputs from the call's, the call's outputs from its own).

  With as many rows as slots the rows are computed in the order of the slots: the cache is then read where it lies.
  """
  size = slots.length.shape[0]
  if rows.shape[0] > size:
    raise ValueError(f'{rows.shape[0]} rows of {size} slots')
  if rows.shape[0] < size:
    return rows, lambda x: x, lambda y: y
  at = jnp.full(size, size, jnp.int32).at[rows].set(jnp.arange(size, dtype=jnp.int32), mode='drop')
  take = lambda x, i: jnp.asarray(x).at[i].get(mode='fill', fill_value=0)
  return jnp.where(at < size, jnp.arange(size, dtype=jnp.int32), size), lambda x: take(x, at), lambda y: take(y, rows)


def _cache(policy, slots, slot, size, sharing, pull, push, window, width, reach):
  """(what the computed rows look back on, with room for `size` new tokens; their length; their logits); padding has length 0."""
  whole = slots.cache[0][0].shape[2]
  part = lambda start, size: lambda x: x if size == whole else jax.lax.dynamic_slice_in_dim(x, start, size, axis=2)
  both = lambda cut, at: jax.tree.map(lambda x: cut(x)[at], slots.cache)
  width, reach = (whole if n is None else min(n, whole) for n in (width, reach))
  window = jnp.minimum(jnp.asarray(window, jnp.int32), whole - width)
  at = jnp.minimum(slot, slots.length.shape[0] - 1) if slot.shape[0] < slots.length.shape[0] else slice(None)
  past = both(part(window, width), at)
  length = slots.length.at[slot].get(mode='fill', fill_value=0)
  shared, base = None, jnp.zeros_like(length)
  if sharing is not None:
    base = pull(sharing.base)
    order = push(jnp.arange(slot.shape[0], dtype=jnp.int32))      # where each row of the call is computed
    shared = Shared(tables=both(part(0, reach), sharing.slot), member=order[sharing.member], place=pull(sharing.place), base=base)
  cache = Cache(past=past, start=base - window, length=length - window, turn=tables(policy.config, slot.shape[0], size, past[0][0].dtype),
                filled=jnp.int32(0), shared=shared)
  return cache, length, slots.logits.at[slot].get(mode='fill', fill_value=0)


def _write(slots, slot, turn, length, count, logits):
  """New keys and values go to each slot's own offset, new logits to slots that were fed; nothing else is touched.

  The offsets are made to depend on the logits, the last thing computed: XLA then knows that the cache has been read before it is
  written, and does not copy it (half of the time of `extend` on a CPU).
  """
  size, width = slots.length.shape[0], slots.cache[0][0].shape[2]
  place = jnp.arange(turn[0][0].shape[2], dtype=jnp.int32)[None]
  at = jnp.where((place < count[:, None]) & ~jnp.isnan(logits[:, :1]), length[:, None] + place, width)
  put = lambda x, y: x.at[slot[:, None], :, at].set(jnp.swapaxes(y, 1, 2), mode='drop')
  fed = jnp.where(count > 0, slot, size)
  return Slots(cache=jax.tree.map(put, slots.cache, turn), length=slots.length.at[fed].set(length + count, mode='drop'),
               logits=slots.logits.at[fed].set(logits, mode='drop'))


# ---- one token -----------------------------------------------------------------------------------------------------

def _logits(hidden, head):
  """`[V, b]` f32: a column a row, as the product with a tied head falls out and as sums over the vocabulary go fastest."""
  return jnp.dot(head.T, hidden.T, preferred_element_type=jnp.float32)


def _logp(logits, ids):
  return jnp.take_along_axis(logits, ids[None], axis=0)[0] - jax.nn.logsumexp(logits, axis=0)


def _uniform(keys, position):
  """`[G, b, 2]` f32 in [0, 1) on a grid of 2**-24: the two words of fold_in(keys[row], position[row, i])."""
  word = lambda key, p: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key, impl='threefry2x32'), p))
  words = jax.vmap(jax.vmap(word, (None, 0)))(keys, position)
  return jnp.swapaxes((words >> 8).astype(jnp.float32) * 2. ** -24, 0, 1)


def _draw(logits, draw, sampling, truncated):
  """(id `[b]`, logp, entropy[, sampler_logp]) from logits `[V, b]` and two uniforms a row `[b, 2]`."""
  greedy = (sampling.temperature <= 0)[None]
  z = logits / jnp.where(greedy, 1., sampling.temperature[None])
  top = z.max(0, keepdims=True)
  weight = jnp.exp(z - top)
  total = weight.sum(0)
  entropy = jnp.log(total) - (weight * (z - top)).sum(0) / total
  kept = jnp.where(weight >= _floor(weight, sampling), weight, 0.) if truncated else weight
  token = _invert(jnp.where(greedy, (z >= top).astype(jnp.float32), kept), jnp.where(greedy[0, :, None], 0., draw))
  value = jnp.take_along_axis(z - top, token[None], axis=0)[0]
  out = token, value - jnp.log(total), entropy
  return (*out, value - jnp.log(kept.sum(0))) if truncated else out


def _floor(weight, sampling):
  """`[1, b]` the least weight that stays: tokens as probable as the last one that stays all stay."""
  size = weight.shape[0]
  down = jnp.sort(weight, axis=0, descending=True)
  rank = jnp.arange(size, dtype=jnp.int32)[:, None]
  inside = rank < jnp.where(sampling.top_k > 0, sampling.top_k, size)[None]
  before = jnp.cumsum(jnp.where(inside, down, 0.), axis=0) - down
  total = jnp.where(inside, down, 0.).sum(0, keepdims=True)
  p = sampling.top_p[None]
  inside &= (p >= 1) | (before < p * total)
  last = jnp.maximum(inside.sum(0, dtype=jnp.int32) - 1, 0)[None]
  return jnp.maximum(jnp.take_along_axis(down, last, axis=0), sampling.min_p[None] * down[:1])


def _invert(weight, draw):
  """An id per row with probability weight / sum, by inverting the cumulative sum in two levels of about sqrt(V) each.

  One uniform picks a block, the other a token in it: two numbers a row, where Gumbel noise takes V (on a CPU 5 times faster
  with V = 448, 36 times with 152k). With V = 150k no probability is off by more than 1e-7 (1e-5 in total variation).
  """
  size, rows = weight.shape
  blocks = 1 << ((size - 1).bit_length() // 2)
  weight = jnp.pad(weight, ((0, -size % blocks), (0, 0))).reshape(blocks, -1, rows)
  block = _first(weight.sum(1), draw[:, 0])
  inner = _first(jnp.take_along_axis(weight, block[None, None], axis=0)[0], draw[:, 1])
  return block * weight.shape[1] + inner


def _first(weight, draw):
  """The first index of positive weight `[n, b]` whose cumulative sum exceeds draw * total."""
  size = weight.shape[0]
  total = jnp.dot(jnp.tril(jnp.ones((size, size), jnp.float32)), weight, precision='highest')
  index = jnp.arange(size, dtype=jnp.int32)[:, None]
  reached = jnp.where(total > draw[None] * total[-1:], 2 * size - index, index)   # if rounding hides it: the last one
  return jnp.argmax(jnp.where(weight > 0, reached, -1), axis=0).astype(jnp.int32)
