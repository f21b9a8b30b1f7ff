"""Decoding many samples of one long prompt: its keys and values once for all rows, or once for each."""

import types
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rlx.bench.table import Line, seconds
from rlx.bench.work import A
from rlx.grow import engine as engines
from rlx.models import cached
from rlx.models.transformer import transformer
from rlx.types import Model

HEADS, KV_HEADS, HEAD = 9, 3, 64     # of SmolLM2-135M


def decode(*, samples: int = 16, prompt: int = 2048, new: int = 64, repeats: int = 7) -> list[Line]:
  """Attention of one token a row, per-row caches against a shared prefix, and the engine on such a prompt.

  The attention is the sampler's, of a layer with the heads of SmolLM2-135M in the middle of a turn (`new` / 2 tokens of each row's
  own). The engine's line is a random model of 4 layers, 256 wide: seconds of `new` tokens of all samples less those of the first, so
  without the prompt.

  Args:
    samples: rows.
    prompt: ids all of them begin with.
    new: ids a turn.
    repeats: runs behind each median.
  """
  if min(samples, prompt, new, repeats) < 1 or new < 2:
    raise ValueError('bench decode takes samples, prompt and repeats of at least 1, and at least 2 new ids.')
  keys = jax.random.split(jax.random.key(0), 3)
  q = jax.random.normal(keys[0], (samples, KV_HEADS, HEADS // KV_HEADS, HEAD)) / HEAD ** .5
  prefix = tuple(jax.random.normal(keys[1], (2, 1, KV_HEADS, prompt, HEAD)))
  own = tuple(jax.random.normal(keys[2], (2, samples, KV_HEADS, new, HEAD)))
  copies = tuple(jnp.repeat(x, samples, axis=0) for x in prefix)
  filled = jnp.int32(new // 2)
  rowwise, cascade = jax.jit(per_row), jax.jit(shared)
  apart = float(jnp.abs(rowwise(q, copies, own, filled) - cascade(q, prefix, own, filled)).max())
  each = seconds(lambda: rowwise(q, copies, own, filled), repeats)
  once = seconds(lambda: cascade(q, prefix, own, filled), repeats)
  token = _engine(samples, prompt, new, repeats)
  mb = sum(x.nbytes for x in prefix) / 2 ** 20
  return [Line('attention, a cache a row', samples, 1e3 * each, 'ms'), Line('attention, shared prefix', samples, 1e3 * once, 'ms'),
          Line('shared / a cache a row', samples, once / each, 'x', 1 / 8), Line('largest difference', samples, apart, '', 1e-5),
          Line('prefix in memory, a cache a row', samples, samples * mb, 'MB'), Line('prefix in memory, shared', samples, mb, 'MB'),
          Line('engine, one token of all', samples, 1e3 * token, 'ms')]


def per_row(q: jax.Array, prefix: Sequence, own: Sequence, filled: jax.Array) -> jax.Array:
  """Attention of q `[R, K, M, Dh]` to its row's prefix (k, v), each `[R, K, P, Dh]`, and to `filled` tokens of its own."""
  return cached.normalised([cached.state(q, [(*prefix, jnp.ones((1, 1, prefix[0].shape[2]), bool)), _own(own, filled)])])


def shared(q: jax.Array, prefix: Sequence, own: Sequence, filled: jax.Array) -> jax.Array:
  """The same with one prefix `[1, K, P, Dh]`: all rows meet it in one product, and two softmaxes become one."""
  rows, base = jnp.arange(len(q), dtype=jnp.int32), jnp.full(len(q), prefix[0].shape[2], jnp.int32)
  line = cached.Shared(tables=[prefix], member=rows[None], place=rows, base=base)
  return cached.normalised([cached.state(q, [_own(own, filled)]), cached.shared_state(q, line, 0, 1)])


def _own(own, filled):
  return (*own, (jnp.arange(own[0].shape[2], dtype=jnp.int32) < filled)[None, None])


def _engine(samples, prompt, new, repeats):
  """Seconds a token of all samples takes, the prompt aside."""
  policy = transformer(vocab=A.vocab, layers=A.layers, dim=A.dim, heads=A.heads, kv_heads=A.kv_heads, ff=A.ff)
  silent = types.SimpleNamespace(ends=(), decode_batch=lambda batch: [''] * len(batch))      # nobody reads the ids
  model = Model(policy, policy.init(jax.random.key(0)), silent)
  limits = engines.Limits(slots=samples, width=prompt + new, turn=new, chunk=min(prompt, 256))
  engine, ids = engines.create(model, limits, engines.Stop()), [1 + i % (A.vocab - 1) for i in range(prompt)]
  keys = engines.keys(jax.random.key(1), [(0, i, 0) for i in range(samples)], samples)

  def speak(room):
    engines.refresh(engine, model.params)
    engines.speak(engine, [engines.Request(ids, -1, k, {}, room) for k in keys])
  for room in (1, new):
    speak(room)
  took = {room: seconds(lambda room=room: speak(room), repeats) for room in (1, new)}
  return (took[new] - took[1]) / (new - 1)
