"""Sampling with a warm cache: prompts and observations are fed in chunks, turns are drawn token by token, all inside jit.

A *slot* holds the keys and values of one sequence. The host names the slots of each call by `rows`, an index array of one of
a few sizes (buckets), so that finished rows stop costing: only the named slots are computed. Nothing is synchronised with the
host inside a turn. What a slot draws depends on its key and its own tokens alone.

Dims: `B` slots, `b` rows of a call, `C` tokens of a chunk, `G` = limit, tokens of a turn, `V` vocabulary.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlx.models.lora import merged
from rlx.models.transformer import Cache, split
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
  cache: list     # a layer: (k, v) [B, K, S, Dh]
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


class Sampler(NamedTuple):
  """The functions of this module, bound to a policy and jitted; made once, so that compilations survive new parameters."""
  empty: Callable    # (slots, width) -> Slots
  extend: Callable   # (params, slots, rows, ids, count, *, score=False, width=None) -> (Slots, logp)
  decode: Callable   # (params, slots, rows, active, room, keys, sampling, *, truncated=False, width=None) -> (Slots, Drawn)
  fork: Callable     # (slots, source, length) -> Slots
  prepare: Callable  # params -> params for the functions above, once for all calls: adapters merged, in the policy's dtype


def make(policy: Policy, *, limit: int, stop_ids: Sequence[int]) -> Sampler:
  """The sampler of a policy. The slots given to `extend`, `decode` and `fork` are donated: use what they return."""
  jit = lambda f, *static: jax.jit(f, static_argnames=static, donate_argnames='slots')
  return Sampler(
      functools.partial(empty, policy),
      jit(functools.partial(extend, policy), 'score', 'width'),
      jit(functools.partial(decode, policy, limit=limit, stop_ids=tuple(stop_ids)), 'truncated', 'width'),
      jit(fork), functools.partial(merged, dtype=policy.config.dtype))


def settings(rows: int, *, temperature: float = 1., top_k: int = 0, top_p: float = 1., min_p: float = 0.) -> Sampling:
  """The same settings for every row, as numpy arrays."""
  return Sampling(np.full(rows, temperature, np.float32), np.full(rows, top_k, np.int32),
                  np.full(rows, top_p, np.float32), np.full(rows, min_p, np.float32))


def empty(policy: Policy, slots: int, width: int, *, dtype: str | None = None) -> Slots:
  """Slots of `width` tokens each, nothing in them. dtype: of the cache; None: the policy's."""
  c = policy.config
  buffer = lambda: jnp.zeros((slots, c.kv_heads, width, c.head_dim), c.dtype if dtype is None else dtype)
  return Slots(cache=[(buffer(), buffer()) for _ in range(c.layers)], length=jnp.zeros(slots, jnp.int32),
               logits=jnp.zeros((slots, c.vocab), jnp.float32))


def extend(policy: Policy, params, slots: Slots, rows: Array, ids: Array, count: Array, *, score: bool = False,
           width: int | None = None) -> tuple[Slots, Array | None]:
  """Feeds a chunk of prompt, observation or forced text.

  Args:
    policy: the model.
    params: its parameters, split or not.
    slots: the state.
    rows: `[b]` i32 distinct slots; entries equal to `B` are padding and do nothing.
    ids: `[b, C]` i32.
    count: `[b]` i32 tokens of each row that are real; those of a row with none are left as they were. The caller sees to it
      that length + count stays within the slots' width.
    score: also return the log-probability of each token (costs the head on every token).
    width: no named slot is longer than this before the call; only so much of the cache is read. None: all of it.

  Returns:
    (slots, logp `[b, C]` f32 at temperature 1, 0 beyond count; None without `score`).
  """
  chex.assert_rank((rows, ids, count), (1, 2, 1))
  params = split(params, policy.config.dtype)
  slot, pull, push = _order(rows, slots)
  past, length, old = _read(slots, slot, width)
  ids, count = pull(ids), pull(count)
  size = ids.shape[1]
  place = jnp.arange(size, dtype=jnp.int32)[None]
  ends = jnp.maximum(count - 1, 0)[:, None]
  hidden, cache = policy.apply(
      params, ids, length[:, None] + place, jnp.where(place < count[:, None], size, 0),
      Cache(past=past, length=length, turn=_turn(past, size), filled=jnp.int32(0)), pick=None if score else ends)
  head, logp = policy.head(params), None
  if score:
    after = lambda h_next: _logp(_logits(h_next[0], head), h_next[1])
    logp = jax.lax.map(after, (jnp.swapaxes(hidden[:, :-1], 0, 1), ids[:, 1:].T)).T
    logp = jnp.concatenate([_logp(old, ids[:, 0])[:, None], logp], axis=1)
    logp = push(jnp.where((place < count[:, None]) & (slot < slots.length.shape[0])[:, None], logp, 0.))
    hidden = jnp.take_along_axis(hidden, ends[..., None], axis=1)
  return _write(slots, slot, cache.turn, length, count, _logits(hidden[:, 0], head)), logp


def decode(policy: Policy, params, slots: Slots, rows: Array, active: Array, room: Array, keys: Array, sampling: Sampling, *,
           limit: int, stop_ids: tuple, truncated: bool = False, width: int | None = None) -> tuple[Slots, Drawn]:
  """Draws one turn for every active row: up to a stop id, `room` tokens, `limit` tokens, or the slot's width.

  The token at position p of a row is drawn with fold_in(key, p), so a turn may be cut in several calls, and neither the
  neighbours, nor the number of slots, nor that of rows change what a row draws.

  Args:
    policy: the model.
    params: its parameters, split or not.
    slots: the state.
    rows: `[b]` i32 distinct slots; entries equal to `B` are padding and do nothing.
    active: `[b]` bool; the other rows are left as they were.
    room: `[b]` i32 most tokens of each row.
    keys: `[b, 2]` u32 threefry keys.
    sampling: `[b]` settings.
    limit: most tokens of a turn, `G`.
    stop_ids: a turn ends after one of these.
    truncated: top_k, top_p and min_p are looked at (a sort of the vocabulary for every token).
    width: no named slot is longer than this before the call; only so much of the cache is read. None: all of it.
  """
  chex.assert_rank((rows, active, room, keys), (1, 1, 1, 2))
  params = split(params, policy.config.dtype)
  head = policy.head(params)
  slot, pull, push = _order(rows, slots)
  past, length, logits = _read(slots, slot, width)
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
    hidden, cache = policy.apply(params, token[:, None], (length + i)[:, None], alone,
                                 Cache(past=past, length=length, turn=turn, filled=i))
    logits = jnp.where(done[:, None], logits, _logits(hidden[:, 0], head))
    count = count + (~done).astype(jnp.int32)
    done = done | (token[:, None] == stops).any(1) | (count >= room)
    return i + 1, logits, done, count, cache.turn, drawn

  drawn = [jnp.zeros((limit, n), jnp.int32)] + [jnp.zeros((limit, n), jnp.float32)] * (3 if truncated else 2)
  start = jnp.int32(0), logits, done, jnp.zeros(n, jnp.int32), _turn(past, limit), drawn
  _, logits, _, count, turn, drawn = jax.lax.while_loop(lambda s: (s[0] < limit) & ~s[2].all(), body, start)
  place = jnp.arange(limit, dtype=jnp.int32)[None]
  ids, logp, entropy, *rest = (push(jnp.where(place < count[:, None], x.T, jnp.zeros((), x.dtype))) for x in drawn)
  final = jnp.take_along_axis(ids, jnp.maximum(push(count) - 1, 0)[:, None], axis=1)
  return _write(slots, slot, turn, length, count, logits), Drawn(
      ids=ids, logp=logp, entropy=entropy, sampler_logp=rest[0] if truncated else logp, count=push(count),
      stopped=(push(count) > 0) & (final == stops).any(1))


def fork(slots: Slots, source: Array, length: Array) -> Slots:
  """Slot i becomes the first `length[i]` tokens of slot `source[i]`. source, length: `[B]` i32.

  `logits` are the source's: right where all of it is taken, else a token must be fed before the next draw.
  """
  take = lambda x: jnp.take(x, source, axis=0, mode='clip')
  return Slots(cache=jax.tree.map(take, slots.cache), length=length, logits=take(slots.logits))


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


def _read(slots, slot, width):
  """Keys and values, length and logits of the computed rows; padding has length 0."""
  size, whole = slot.shape[0] < slots.length.shape[0], slots.cache[0][0].shape[2]
  part = lambda x: x if width is None or width >= whole else jax.lax.slice_in_dim(x, 0, width, axis=2)
  take = lambda x: jnp.take(x, slot, axis=0, mode='clip') if size else x
  past = jax.tree.map(lambda x: take(part(x)), slots.cache)
  return past, slots.length.at[slot].get(mode='fill', fill_value=0), slots.logits.at[slot].get(mode='fill', fill_value=0)


def _write(slots, slot, turn, length, count, logits):
  """New keys and values go to each slot's own offset, new logits to slots that were fed; nothing else is touched.

  The offsets are made to depend on the logits, the last thing computed: XLA then knows that the cache has been read before
  it is written, and does not copy it (half of the time of `extend` on a CPU).
  """
  size, width = slots.length.shape[0], slots.cache[0][0].shape[2]
  place = jnp.arange(turn[0][0].shape[2], dtype=jnp.int32)[None]
  at = jnp.where((place < count[:, None]) & ~jnp.isnan(logits[:, :1]), length[:, None] + place, width)
  put = lambda x, y: x.at[slot[:, None], :, at].set(jnp.swapaxes(y, 1, 2), mode='drop')
  fed = jnp.where(count > 0, slot, size)
  return Slots(cache=jax.tree.map(put, slots.cache, turn), length=slots.length.at[fed].set(length + count, mode='drop'),
               logits=slots.logits.at[fed].set(logits, mode='drop'))


def _turn(past, size):
  return jax.tree.map(lambda x: jnp.zeros((*x.shape[:2], size, x.shape[3]), x.dtype), past)


# ---- one token -----------------------------------------------------------------------------------------------------

def _logits(hidden, head):
  return jnp.dot(hidden, head, preferred_element_type=jnp.float32)


def _logp(logits, ids):
  return jnp.take_along_axis(logits, ids[:, None], axis=1)[:, 0] - jax.nn.logsumexp(logits, axis=1)


def _uniform(keys, position):
  """`[G, b, 2]` f32 in [0, 1) on a grid of 2**-24: the two words of fold_in(keys[row], position[row, i])."""
  word = lambda key, p: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key, impl='threefry2x32'), p))
  words = jax.vmap(jax.vmap(word, (None, 0)))(keys, position)
  return jnp.swapaxes((words >> 8).astype(jnp.float32) * 2. ** -24, 0, 1)


def _draw(logits, draw, sampling, truncated):
  """(id `[b]`, logp, entropy[, sampler_logp]) from logits `[b, V]` and two uniforms a row `[b, 2]`."""
  greedy = (sampling.temperature <= 0)[:, None]
  z = logits / jnp.where(greedy, 1., sampling.temperature[:, None])
  top = z.max(1, keepdims=True)
  weight = jnp.exp(z - top)
  total = weight.sum(1)
  entropy = jnp.log(total) - (weight * (z - top)).sum(1) / total
  kept = jnp.where(weight >= _floor(weight, sampling), weight, 0.) if truncated else weight
  token = _invert(jnp.where(greedy, (z >= top).astype(jnp.float32), kept), jnp.where(greedy, 0., draw))
  value = jnp.take_along_axis(z - top, token[:, None], axis=1)[:, 0]
  out = token, value - jnp.log(total), entropy
  return (*out, value - jnp.log(kept.sum(1))) if truncated else out


def _floor(weight, sampling):
  """`[b, 1]` the least weight that stays: tokens as probable as the last one that stays all stay."""
  size = weight.shape[1]
  down = jnp.sort(weight, axis=1, descending=True)
  rank = jnp.arange(size, dtype=jnp.int32)[None]
  inside = rank < jnp.where(sampling.top_k > 0, sampling.top_k, size)[:, None]
  before = jnp.cumsum(jnp.where(inside, down, 0.), axis=1) - down
  total = jnp.where(inside, down, 0.).sum(1, keepdims=True)
  p = sampling.top_p[:, None]
  inside &= (p >= 1) | (before < p * total)
  last = jnp.maximum(inside.sum(1, dtype=jnp.int32) - 1, 0)[:, None]
  return jnp.maximum(jnp.take_along_axis(down, last, axis=1), sampling.min_p[:, None] * down[:, :1])


def _invert(weight, draw):
  """An id per row with probability weight / sum, by inverting the cumulative sum in two levels of about sqrt(V) each.

  One uniform picks a block, the other a token in it: two numbers a row, where Gumbel noise takes V (on a CPU 5 times faster
  with V = 448, 36 times with 152k). With V = 150k no probability is off by more than 1e-7 (1e-5 in total variation).
  """
  rows, size = weight.shape
  blocks = 1 << ((size - 1).bit_length() // 2)
  weight = jnp.pad(weight, ((0, 0), (0, -size % blocks))).reshape(rows, blocks, -1)
  block = _first(weight.sum(2), draw[:, 0])
  inner = _first(jnp.take_along_axis(weight, block[:, None, None], axis=1)[:, 0], draw[:, 1])
  return block * weight.shape[2] + inner


def _first(weight, draw):
  """The first index of positive weight whose cumulative sum exceeds draw * total."""
  size = weight.shape[1]
  total = jnp.dot(weight, jnp.triu(jnp.ones((size, size), jnp.float32)), precision='highest')
  index = jnp.arange(size, dtype=jnp.int32)[None]
  reached = jnp.where(total > draw[:, None] * total[:, -1:], 2 * size - index, index)   # if rounding hides it: the last one
  return jnp.argmax(jnp.where(weight > 0, reached, -1), axis=1).astype(jnp.int32)
