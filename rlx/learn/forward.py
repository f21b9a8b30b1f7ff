"""What a model says about the tokens of a batch: the one place where log-probabilities for training are made."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import inspect
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import linear_logp
from pallas_kernels.linear_policy_loss import linear_policy_loss
from rlx.models.heads import value_head
from rlx.types import Array, Batch, Out, Policy, Tokens


def last_seen(segment: Array) -> Array:
  """`[R, T]` i32 `last` of packed rows: token j is seen by i iff j <= i < last[j].

  It is the end of the token's sequence. A padding token is seen by itself only.

  Args:
    segment: `[R, T]` sequence inside the row, contiguous, -1 on padding.
  """
  width = segment.shape[1]
  after = jnp.broadcast_to(jnp.arange(1, width + 1, dtype=jnp.int32), segment.shape)
  ends = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (0, 1)), constant_values=True)
  ends |= segment < 0
  return jax.lax.cummin(jnp.where(ends, after, width), axis=1, reverse=True)


def before(tokens: Tokens) -> Array:
  """`[R, T]` i32 index of the token before each on its path, -1 at the first of a sequence and on padding.

  In a packed row that is the neighbour to the left. In a tree row (`stream['last']`; preorder, positions count from each
  tree's root) it is the nearest token to the left that stands one position higher.
  """
  rows, width = tokens.ids.shape
  index = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), (rows, width))
  if 'last' not in tokens.stream:
    same = jnp.pad(tokens.segment[:, 1:] == tokens.segment[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(same & (tokens.segment >= 0), index - 1, -1)
  # sorted by (position, index), the wanted token is the greatest key below (position - 1, own index)
  real = tokens.segment >= 0
  order = jnp.sort(jnp.where(real, tokens.position * width + index, jnp.iinfo(jnp.int32).max), axis=1)
  slot = jax.vmap(jnp.searchsorted)(order, (tokens.position - 1) * width + index) - 1
  key = jnp.take_along_axis(order, jnp.maximum(slot, 0), axis=1)
  return jnp.where(real & (slot >= 0) & (key // width == tokens.position - 1), key % width, -1)


def temperatures(tokens: Tokens, temperature) -> Array | float:
  """The temperature each token was drawn at: `stream['temperature']` where it stands and is not 0, else the run's."""
  own = tokens.stream.get('temperature')
  return temperature if own is None else jnp.where(own > 0, own, temperature)


def forward(policy: Policy, params: Any, batch: Batch | Tokens, *, temperature=1., heads: tuple[str, ...] = (),
            extra: Mapping[str, Callable] = {}, actions: int | None = None, microbatch: int | None = None,
            implementation: str | None = None) -> Out:
  """Log-probability, entropy, values and whatever else is asked of the logits, of every sampled token.

  All columns of token t are read from the hidden state of the token before it on its path, the state in which t was
  chosen: `logp_t = log softmax(head(hidden_before(t)) / temperature)[ids_t]`, and the value of t is the value of the state
  before t is said. The first token of a sequence has no such state and gets 0, as do tokens that were not sampled.

  Args:
    policy: the model. Where its `apply` takes `pick` (`[R, K]`, the only tokens whose hidden state is wanted), it gets it.
    params: its parameters; those of head `name` are `params['heads'][name]`.
    batch: a batch or its tokens. `tokens.stream['last']` marks tree rows, otherwise rows are packed sequences.
    temperature: scalar, or `[R, T]` for one of each token's own; may be traced.
    heads: names of the value heads to read.
    extra: name -> `fn(logits [V] f32, id) -> f32 scalar`, on the logits divided by the temperature.
    actions: the largest number of sampled tokens in a row. Only so many positions of each row reach the head, which is
      most of the work where the vocabulary is large. None: all `T`. In a row that has more, the tokens left over are NaN.
    microbatch: rows that are computed at once, one set after the other; None: all.
    implementation: of `linear_logp`.

  Returns:
    `Out` with `[R, T]` f32 columns, whatever the model's dtype.

  Raises:
    KeyError: a head that `params['heads']` does not have; the message lists those it has.
    ValueError: a microbatch of no rows.
  """
  tokens = batch.tokens if isinstance(batch, Batch) else batch
  rows, width = tokens.ids.shape
  if microbatch is not None and microbatch < 1:
    raise ValueError(f'a microbatch has at least 1 row, not {microbatch}.')
  if microbatch is not None and microbatch < rows:
    again = functools.partial(forward, policy, params, heads=heads, extra=extra, actions=actions, implementation=implementation)
    own = temperature if getattr(temperature, 'ndim', 0) else None
    return _in_turn(lambda x: again(x[0], temperature=temperature if x[1] is None else x[1]), (tokens, own), rows, microbatch)
  chex.assert_shape((tokens.segment, tokens.position, tokens.sampled), (rows, width))
  missing = set(heads) - set(params['heads'] if heads and 'heads' in params else ())
  if missing:
    raise KeyError(f"no value head {sorted(missing)} in params['heads'], which has {sorted(params.get('heads', ()))}")

  hidden, picked = _picked(policy, params, tokens, actions)
  if getattr(temperature, 'ndim', 0):
    temperature = picked.here(temperature)
  logp, entropy, *values = linear_logp(hidden, policy.head(params), picked.here(tokens.ids), temperature=temperature, extra=extra,
                                       tied=_tied(policy), implementation=implementation)
  return Out(logp=picked.back(logp), entropy=picked.back(entropy),
             value={name: picked.back(policy.heads.get(name, value_head()).apply(params['heads'][name], hidden)) for name in heads},
             extra=jax.tree.map(picked.back, values[0] if values else {}))


def _in_turn(f: Callable, tree: Any, rows: int, size: int) -> Any:
  """f of `size` rows of a tree `[R, ...]` at a time. Rows lie apart by their number, so that devices keep those they have."""
  count = -(-rows // size)
  fill = lambda x: jnp.pad(x, ((0, size * count - rows), *[(0, 0)] * (x.ndim - 1)), mode='edge')
  split = lambda x: jnp.swapaxes(fill(x).reshape(size, count, *x.shape[1:]), 0, 1)
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(size * count, *x.shape[2:])[:rows]
  return jax.tree.map(join, jax.lax.map(f, jax.tree.map(split, tree)))


def forward_loss(policy: Policy, params: Any, batch: Batch, term: Callable, columns: Any, *, temperature=1.,
                 extra: Mapping[str, Callable] = {}, actions: int | None = None) -> tuple[Array, Out]:
  """A sum over tokens whose gradient the head makes in its forward pass (`linear_policy_loss`), and what the model says.

  Args:
    policy, params, temperature, extra, actions: as in `forward`.
    batch: a batch.
    term: `(out, batch, columns) -> [1, C]` f32, elementwise in tokens. It is called on chunks of `C` sampled tokens from anywhere, laid
      in one row, with the batch's steps and prompts as they are.
    columns: tree of arrays `[R, T, ...]`, of which `term` gets the same tokens.

  Returns:
    (sum of `term` over the sampled tokens that have a state before them, with a gradient to params; `Out` without one).
  """
  tokens = batch.tokens
  hidden, picked = _picked(policy, params, tokens, actions)
  if getattr(temperature, 'ndim', 0):
    temperature = picked.here(temperature)

  def one(logp, entropy, values, args):
    tokens, columns, real = jax.tree.map(lambda x: x[None], args)
    out = Out(logp=logp[None], entropy=entropy[None], extra={name: x[None] for name, x in values.items()})
    return jnp.where(real, term(out, dataclasses.replace(batch, tokens=tokens), columns), 0.)[0]
  args = (*jax.tree.map(picked.here, (tokens, columns)), picked.real)
  loss, logp, entropy, values = linear_policy_loss(hidden, policy.head(params), picked.here(tokens.ids), one, args,
                                                   temperature=temperature, extra=extra, tied=_tied(policy))
  return loss, Out(logp=picked.back(logp), entropy=picked.back(entropy), extra=jax.tree.map(picked.back, values))


def _tied(policy: Policy) -> bool:
  """Whether `policy.head` gives the transpose of a table."""
  return bool(getattr(policy.config, 'tied', False))


class _Picked(NamedTuple):
  """The tokens of each row that reach the head; `K` of them in a row."""
  asked: Array    # [R, T] bool sampled, and with a state before it
  slot: Array     # [R, T] where among the K a token stands that is asked for
  at: Array       # [R, K] which token stands there
  real: Array     # [R, K] bool whether it was asked for, once

  def here(self, x: Array) -> Array:
    """`[R, T, ...]` -> `[R, K, ...]`."""
    return jnp.take_along_axis(x, self.at.reshape(self.at.shape + (1,) * (x.ndim - 2)), axis=1)

  def back(self, x: Array) -> Array:
    """`[R, K]` -> `[R, T]`: 0 where nothing was asked, NaN on what found no place."""
    size = self.at.shape[1]
    x = jnp.take_along_axis(x, jnp.minimum(self.slot, size - 1), axis=1)
    return jnp.where(self.asked, jnp.where(self.slot < size, x, jnp.nan), 0)


def _picked(policy: Policy, params: Any, tokens: Tokens, actions: int | None) -> tuple[Array, _Picked]:
  """(hidden states `[R, K, D]` before the sampled tokens, which these are)."""
  width = tokens.ids.shape[1]
  last = tokens.stream['last'] if 'last' in tokens.stream else last_seen(tokens.segment)
  state = before(tokens)
  asked = tokens.sampled & (state >= 0)
  size = width if actions is None else min(actions, width)
  slot, at = _slots(asked, size)
  if size == width:
    picked = _Picked(asked, slot, at, asked)
  else:
    count = jnp.sum(asked, axis=1, keepdims=True, dtype=jnp.int32)
    picked = _Picked(asked, slot, at, jnp.arange(size, dtype=jnp.int32)[None] < count)
  return _hidden(policy, params, tokens, last, jnp.maximum(picked.here(state), 0)), picked


def _hidden(policy: Policy, params: Any, tokens: Tokens, last: Array, pick: Array) -> Array:
  """`[R, K, D]` hidden states of the tokens `pick`."""
  rows = params, tokens.ids, tokens.position, last
  # of all tokens `pick` would save nothing, and whole rows of attention are done in blocks
  if pick.shape[1] < last.shape[1] and 'pick' in inspect.signature(policy.apply).parameters:
    return policy.apply(*rows, pick=pick)[0]
  return jnp.take_along_axis(policy.apply(*rows)[0], pick[:, :, None], axis=1)


def _slots(asked: Array, size: int) -> tuple[Array, Array]:
  """(slot `[R, T]` of each token that is asked for, at `[R, size]` the token in each slot; any where a slot is empty)."""
  width = asked.shape[1]
  if size == width:
    index = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), asked.shape)
    return index, index
  count = jnp.cumsum(asked, axis=1, dtype=jnp.int32)
  # a search in the counts, where a scatter would gather all rows on every device
  at = jax.vmap(jnp.searchsorted, (0, None))(count, jnp.arange(1, size + 1, dtype=jnp.int32))
  return jnp.maximum(count - 1, 0), jnp.minimum(at, width - 1)
