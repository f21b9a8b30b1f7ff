"""The state of a learner, and its update: gradients of one minibatch, added up over microbatches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
import optax

from rlx.learn import objective
from rlx.learn.forward import forward, forward_loss, temperatures
from rlx.learn.mesh import keep_rows, replicated
from rlx.types import Array, Batch, Out, Policy, struct


@struct
class TrainState:
  """Everything a learner carries from step to step."""
  params: Any
  opt_state: Any
  carry: Any        # states of stateful estimators, selectors and losses
  updates: Array    # [] i32


def create(params: Any, tx: optax.GradientTransformation, tracks: Mapping[str, objective.Track]) -> TrainState:
  """A learner's first state. It has the types and the places of all that follow, so that an update is compiled once."""
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.asarray(x).dtype), params)      # no weak types
  state = TrainState(params=params, opt_state=tx.init(params), carry=objective.init(tracks), updates=jnp.int32(0))
  where = shardings(params, tx, tracks)
  return state if where is None else jax.device_put(state, where)


def shardings(params: Any, tx: optax.GradientTransformation, tracks: Mapping[str, objective.Track]) -> TrainState | None:
  """Where a state lives: moments where their parameters are, all else on every device. None: the parameters are on no mesh."""
  mesh = next((x.sharding.mesh for x in jax.tree.leaves(params) if isinstance(getattr(x, 'sharding', None), NamedSharding)), None)
  if mesh is None:
    return None
  everywhere, here = replicated(mesh), jax.tree.map(lambda x: x.sharding, params)
  opt_state = optax.tree_utils.tree_map_params(
      tx, lambda x, p, s: s if x.shape == p.shape else everywhere, jax.eval_shape(tx.init, params), params, here,
      transform_non_params=lambda _: everywhere)
  return TrainState(params=here, opt_state=opt_state, carry=jax.tree.map(lambda _: everywhere, objective.init(tracks)), updates=everywhere)


def take(batch: Batch, credits: Mapping, rows: Array) -> tuple[Batch, Mapping]:
  """The rows of a minibatch, gathered on the device; row -1 is padding, and nothing of it is kept."""
  real, at = rows >= 0, jnp.maximum(rows, 0)
  pick = lambda x: x[at]
  tokens = jax.tree.map(pick, batch.tokens)
  tokens = dataclasses.replace(tokens, mask=tokens.mask & real[:, None], sampled=tokens.sampled & real[:, None])
  chosen = {k: objective.Credit(adv=pick(c.adv), keep=pick(c.keep) & real[:, None]) for k, c in credits.items()}
  return dataclasses.replace(batch, tokens=tokens), chosen


def update(tracks: Mapping[str, objective.Track], policy: Policy, tx: optax.GradientTransformation, *, temperature: float,
           microbatch: int | None = None, actions: int | None = None, implementation: str | None = None,
           where: TrainState | None = None) -> Callable:
  """Makes the jitted update of a learner; `where` are the `shardings` of its state, which it keeps.

  Returns:
    `step(state, batch, credits, rows [M], hypers, key) -> (state, metrics)`: one optimizer step on the rows of the batch, with
    randomness of its own from the run's key; the state's buffers are donated. A gradient that is not finite leaves the
    parameters as they were and is counted in `skipped`. Metrics are means over kept tokens: `loss/<track>`, `entropy`, `kl` (k3
    of the behaviour from the policy), `ratio_gap` mean |r - 1|, `logp_gap` mean |log r|, `nll`, `tokens`; beside them
    `grad_norm` and `clip_share`: of the kept tokens with an advantage, those whose policy gradient a loss cut to 0.

  `implementation` is that of the head: None where all losses are local and ask for no value head makes their gradient in the head's
  forward pass, otherwise in a backward pass that makes the logits again; 'fused' insists on the first; others are `linear_logp`'s.

  Raises:
    ValueError: 'fused' with losses that do not allow it.
  """
  mesh = None if where is None else where.updates.mesh
  looks = objective.prepared(tracks)
  fused = implementation in (None, 'fused') and objective.fusible(tracks)
  if implementation == 'fused':
    if not fused:
      raise ValueError("head='fused' needs losses that are local and read no value head; set head=None, which takes what each learner allows.")
    implementation = None

  def run(params, batch, hypers):
    heads, extra = objective.wants(tracks, hypers)
    return forward(policy, params, batch, temperature=temperatures(batch.tokens, temperature), heads=heads, extra=extra,
                   actions=actions, implementation=implementation)

  def sloped(params, batch, credits, weight, stats, hypers):
    """The loss of a microbatch, its gradient made in the forward pass, and what the model says, without a gradient."""
    token, place = _token_columns(stats, batch.tokens.ids.shape)
    def term(out, batch, columns):
      credits, weight, token = columns
      parts = objective.terms(tracks, hypers, out, batch, credits, weight, place(token))
      return sum(hypers[name]['coef'] * part for name, part in parts.items())
    return forward_loss(policy, params, batch, term, (credits, weight, token), temperature=temperatures(batch.tokens, temperature),
                        extra=objective.wants(tracks, hypers)[1], actions=actions)

  def part(params, batch, credits, weight, stats, hypers, carry, key, look):
    """The loss of a microbatch; beside it what was seen, each track's part, and the carry."""
    early = fused and not look     # after a look at the whole minibatch the logits are needed again anyway
    loss, out = sloped(params, batch, credits, weight, stats, hypers) if early else (None, run(params, batch, hypers))
    if look:
      carry, stats = objective.prepare(tracks, hypers, carry, out, batch, credits, key)
    value, parts = objective.total(tracks, hypers, out, batch, credits, weight, stats)
    acted, clipped = _clipped(tracks, hypers, jax.lax.stop_gradient(out), batch, credits, weight, stats)
    return loss if early else value, (dict(_seen(out, batch, credits), acted=acted, clip_share=clipped), parts, carry)

  grad = jax.grad(part, has_aux=True)

  def step(state, batch, credits, rows, hypers, key):
    key = jax.random.fold_in(key, state.updates)
    batch, credits = take(batch, credits, rows)
    tokens, credits = keep_rows((batch.tokens, credits), mesh)
    batch = dataclasses.replace(batch, tokens=tokens)
    weight = objective.weights(tracks, hypers, batch, credits)
    count = rows.shape[0]
    size = count if microbatch is None else min(microbatch, count)
    if count % size:
      raise ValueError(f'a minibatch of {count} rows does not divide into microbatches of {size}.')
    carry, stats = state.carry, {name: [()] * len(t.loss) for name, t in tracks.items()}
    if size == count:
      grads, (seen, parts, carry) = grad(state.params, batch, credits, weight, stats, hypers, carry, key, looks)
    else:
      split = lambda x: keep_rows(x.reshape((count // size, size) + x.shape[1:]), mesh, axis=1)
      pieces = jax.tree.map(split, (batch.tokens, credits, weight))
      if looks:
        outs = jax.lax.map(lambda tokens: run(state.params, dataclasses.replace(batch, tokens=tokens), hypers), pieces[0])
        join = lambda x: x.reshape((count,) + x.shape[2:])
        carry, stats = objective.prepare(tracks, hypers, carry, jax.tree.map(join, outs), batch, credits, key)

      token, place = _token_columns(stats, batch.tokens.ids.shape)
      pieces = *pieces, jax.tree.map(split, token)

      def one(piece):
        tokens, c, w, token = piece
        grads, (seen, parts, _) = grad(state.params, dataclasses.replace(batch, tokens=tokens), c, w, place(token), hypers, carry, key, False)
        return grads, parts, seen

      shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], pieces))
      start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
      (grads, parts, seen), _ = jax.lax.scan(lambda sums, piece: (jax.tree.map(jnp.add, sums, one(piece)), None), start, pieces)
    norm = optax.tree.norm(grads)
    fine = jnp.isfinite(norm)
    with jax.numpy_dtype_promotion('standard'), jax.numpy_rank_promotion('allow'):   # optax promotes; we need not
      changes, opt_state = tx.update(grads, state.opt_state, state.params)
    keep_old = lambda new, old: jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, old)
    params = keep_old(optax.apply_updates(state.params, changes), state.params)
    state = TrainState(params=params, opt_state=keep_old(opt_state, state.opt_state), carry=keep_old(carry, state.carry),
                       updates=state.updates + 1)
    tokens = jnp.maximum(seen.pop('tokens'), 1)
    seen = {k: v / jnp.maximum(seen['acted'], 1) if k == 'clip_share' else v / tokens for k, v in seen.items()}
    seen.pop('acted')
    return state, dict({f'loss/{k}': v for k, v in parts.items()}, **seen, grad_norm=norm, tokens=tokens,
                       skipped=1 - fine.astype(jnp.float32))

  return jax.jit(step, donate_argnums=(0,), out_shardings=(where, None))


def _token_columns(stats: Any, shape: tuple) -> tuple[list, Callable]:
  """(leaves of the statistics that are `[R, T, ...]`, a function that puts others in their places): one value a token goes with its token."""
  leaves, tree = jax.tree.flatten(stats)
  at = [i for i, x in enumerate(leaves) if jnp.shape(x)[:2] == shape]

  def place(columns):
    new = list(leaves)
    for i, x in zip(at, columns, strict=True):
      new[i] = x
    return jax.tree.unflatten(tree, new)
  return [leaves[i] for i in at], place


def _seen(out: Out, batch: Batch, credits: Mapping[str, objective.Credit]) -> dict[str, Array]:
  """Sums over the tokens kept by any track."""
  keep = jnp.zeros(batch.tokens.mask.shape, bool)
  for c in credits.values():
    keep |= c.keep
  gap = jnp.where(keep, jnp.clip(out.logp - batch.tokens.logp, -20, 20), 0.)
  add = lambda x: jnp.sum(jnp.where(keep, x, 0.))
  return dict(entropy=add(out.entropy), kl=add(jnp.exp(gap) - 1 - gap), ratio_gap=add(jnp.abs(jnp.exp(gap) - 1)),
              logp_gap=add(jnp.abs(gap)), nll=-add(out.logp), tokens=jnp.sum(keep.astype(jnp.float32)))


def _clipped(tracks, hypers, out, batch, credits, weight, stats) -> tuple[Array, Array]:
  """(kept tokens whose advantage a loss reads, those of them whose log-probability then has no slope), added up over tracks.

  Terms that read no advantage (KL, entropy) give a clipped token a slope too; it is compared with the slope at advantage 0.
  """
  acted = clipped = jnp.float32(0)
  for name, track in tracks.items():
    def value(logp, adv, name=name, track=track):
      credit = {name: dataclasses.replace(credits[name], adv=adv)}
      return objective.total({name: track}, hypers, dataclasses.replace(out, logp=logp), batch, credit, weight, stats)[0]
    c = credits[name]
    slope, use = jax.grad(value, argnums=(0, 1))(out.logp, c.adv)
    rest = jax.grad(value)(out.logp, jnp.zeros_like(c.adv))
    read = c.keep & (c.adv != 0) & (use != 0)
    acted += jnp.sum(read, dtype=jnp.float32)
    clipped += jnp.sum(read & (slope == rest), dtype=jnp.float32)
  return acted, clipped
