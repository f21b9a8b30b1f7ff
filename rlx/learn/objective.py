"""From tracks to one number: credit on the whole batch, weights on a minibatch, terms on its rows.

A track is estimators -> selectors -> average -> losses. Credit and selection are decided once, on the whole batch; the average and
`prepare` see the minibatch; `term` may see a part of it, so sums over microbatches and devices leave nothing to divide.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx import tree
from rlx.masked import narrow, to_tokens
from rlx.types import Advantages, Array, Batch, Loss, Out, Stateful, struct
from rlx.types import _keep_state as keep_state

sg = jax.lax.stop_gradient


class Track(NamedTuple):
  """One objective of a learner; every member is a `config.Bound`."""
  estimator: tuple
  selector: tuple
  average: Any
  loss: tuple          # of (Bound, coef), coef a float or a schedule
  coef: Any = 1.


@struct
class Credit:
  """What the whole batch decides for a track."""
  adv: Array           # [R, T] f32
  keep: Array          # [R, T] bool


def floats(tracks: Mapping[str, Track], step: int) -> dict:
  """The traced hyperparameters of all tracks at a step: the argument of the jitted functions."""
  def value(v):
    with jax.ensure_compile_time_eval():
      return np.float32(v(step) if callable(v) else v)
  return {name: dict(estimator=[b.floats(step) for b in t.estimator], selector=[b.floats(step) for b in t.selector],
                     average=t.average.floats(step), loss=[b.floats(step) for b, _ in t.loss],
                     coefs=[value(c) for _, c in t.loss], coef=value(t.coef)) for name, t in tracks.items()}


def losses(track: Track, hyper: Mapping) -> list[Loss]:
  """The track's losses, made with the (traced) hyperparameters."""
  return [b.call(floats=f) for (b, _), f in zip(track.loss, hyper['loss'], strict=True)]


def wants(tracks: Mapping[str, Track], hypers: Mapping | None = None) -> tuple[tuple, dict]:
  """(heads, extra): the union of what the losses ask of `forward`; `extra` may close over their (traced) hyperparameters.

  Raises:
    ValueError: two different losses give an extra the same name.
  """
  heads, extra, whose = {}, {}, {}
  hypers = floats(tracks, 0) if hypers is None else hypers
  for name, track in tracks.items():
    for (bound, _), loss in zip(track.loss, losses(track, hypers[name]), strict=True):
      heads.update(dict.fromkeys(loss.heads))
      for k, fn in loss.extra.items():
        same = whose.setdefault(k, (bound, fn))
        if same[1] is not fn and (same[0].fn, same[0].static, same[0].traced) != (bound.fn, bound.static, bound.traced):
          raise ValueError(f"losses '{same[0].name}' and '{bound.name}', or one of them with two settings, both have an extra '{k}': "
                           'give one another name.')
        extra[k] = fn
  return tuple(heads), extra


def memory(bounds: Sequence) -> list:
  """The first states of bound methods, () for those without one; arrays, so that nothing is traced twice."""
  runtime = dict(step=jnp.int32(0), key=jax.random.key(0), models={}, adv=None)
  array = lambda x: jnp.asarray(x, jnp.asarray(x).dtype)      # a Python number has a weak type, what comes back has not
  return [jax.tree.map(array, b.call(**runtime).init()) if not b.places else () for b in bounds]


def init(tracks: Mapping[str, Track]) -> dict:
  """The carry of all tracks: states of stateful estimators and selectors, and of losses."""
  return {name: dict(estimator=memory(t.estimator), selector=memory(t.selector), loss=memory([b for b, _ in t.loss]))
          for name, t in tracks.items()}


def apply(bound, hyper, state, *args, **runtime):
  """Calls a method that may have a memory: (state, result)."""
  if bound.places:
    return state, bound.call(*args, floats=hyper, **runtime)
  made: Stateful = bound.call(floats=hyper, **{k: v for k, v in runtime.items() if k in bound.takes})
  return made.update(state, *args)


def credit(tracks: Mapping[str, Track], hypers: Mapping, carry: dict, batch: Batch, *, step: Array, key: Array,
           models: Mapping | None = None) -> tuple[Batch, dict[str, Credit], dict]:
  """Runs estimators, modulators and selectors of every track on the whole batch.

  Returns:
    (batch with the targets of critics in `stream['target/<head>']`, track -> Credit, carry).

  Raises:
    ValueError: an estimator or selector gave another shape than its kind says.
  """
  n, shape = batch.nodes.parent.shape, batch.tokens.ids.shape
  given = credited(batch, batch.tokens.mask)
  streams, credits, carry = dict(batch.tokens.stream), {}, dict(carry)
  for name, track in tracks.items():
    memory = {k: list(v) for k, v in carry[name].items()}
    own = jax.random.fold_in(key, len(credits))
    runtime = lambda i, own=own: dict(step=step, key=jax.random.fold_in(own, i), models=models)
    adv = None
    for i, bound in enumerate(track.estimator):
      args = (batch,) if i == 0 else (batch, adv)
      memory['estimator'][i], got = apply(bound, hypers[name]['estimator'][i], memory['estimator'][i], *args, **runtime(i))
      if isinstance(got, Advantages):
        for head, target in got.target.items():
          streams[f'target/{head}'] = sg(to_tokens(target, batch.tokens) if target.ndim == 1 else target)
        got = got.adv
      if got.shape not in (n, shape):
        raise ValueError(f"estimator '{bound.name}' gave {got.shape}; it must give [N] = {n} or [R, T] = {shape}.")
      if i and adv.shape != got.shape and adv.shape == shape:
        raise ValueError(f"'{bound.name}' works on steps and cannot stand behind '{track.estimator[i - 1].name}', which works on tokens.")
      adv = got
    adv = to_tokens(adv, batch.tokens) if adv.ndim == 1 else jnp.where(batch.tokens.mask, adv, 0.)
    keep = given
    for i, bound in enumerate(track.selector):
      memory['selector'][i], keep = apply(bound, hypers[name]['selector'][i], memory['selector'][i], batch, keep,
                                          **runtime(len(track.estimator) + i), adv=sg(adv))
      if keep.shape != shape or keep.dtype != bool:
        raise ValueError(f"selector '{bound.name}' gave {keep.dtype}{keep.shape}; it must give bool{shape}.")
    credits[name] = Credit(adv=sg(adv.astype(jnp.float32)), keep=keep & given)
    carry[name] = memory
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=streams)), credits, carry


def credited(batch: Batch, keep: Array) -> Array:
  """`[R, T]` kept tokens of steps an ended episode runs through: abandoned branches and failed episodes get no credit."""
  live = tree.through(tree.ended(batch.nodes), batch.nodes.parent)
  return keep & to_tokens(live, batch.tokens)


def weights(tracks: Mapping[str, Track], hypers: Mapping, batch: Batch, credits: Mapping[str, Credit]) -> dict[str, Array]:
  """`[R, T]` num / sum(den) of each track over a whole minibatch; all 0 where nothing is kept."""
  out = {}
  for name, track in tracks.items():
    bound, hyper, keep = track.average, hypers[name]['average'], credits[name].keep
    num, den = bound.call(batch, keep, floats=hyper) if bound.places else bound.call(floats=hyper)(batch, keep)
    total = jnp.sum(den)
    out[name] = jnp.where(total > 0, num / jnp.maximum(total, 1e-8), 0.)
  return out


def prepared(tracks: Mapping[str, Track]) -> bool:
  """Whether any loss looks at the whole minibatch before its first term."""
  return any(b.call().prepare is not keep_state for t in tracks.values() for b, _ in t.loss)


def prepare(tracks: Mapping[str, Track], hypers: Mapping, carry: dict, out: Out, batch: Batch, credits: Mapping[str, Credit],
            key: Array) -> tuple[dict, dict]:
  """Runs every loss's `prepare` on a whole minibatch: (carry, track -> list of statistics)."""
  stats, carry, out = {}, dict(carry), sg(out)
  for number, (name, track) in enumerate(tracks.items()):
    memory = dict(carry[name], loss=list(carry[name]['loss']))
    kept, stats[name], own = narrow(batch, credits[name].keep), [], jax.random.fold_in(key, number)
    for i, loss in enumerate(losses(track, hypers[name])):
      memory['loss'][i], s = loss.prepare(memory['loss'][i], out, kept, credits[name].adv, jax.random.fold_in(own, i))
      stats[name].append(s)
    carry[name] = memory
  return carry, stats


def fusible(tracks: Mapping[str, Track]) -> bool:
  """Whether all losses of a learner are local and ask for no value head, so that the head may make their gradient in its forward pass."""
  made = [b.call() for t in tracks.values() for b, _ in t.loss]
  return all(loss.local and not loss.heads for loss in made)


def terms(tracks: Mapping[str, Track], hypers: Mapping, out: Out, batch: Batch, credits: Mapping[str, Credit],
          weight: Mapping[str, Array], stats: Mapping[str, list]) -> dict[str, Array]:
  """`[R, T]` what each token adds to each track, before the track's own coefficient."""
  parts = {}
  for name, track in tracks.items():
    hyper, c = hypers[name], credits[name]
    kept, part = narrow(batch, c.keep), jnp.zeros(c.keep.shape, jnp.float32)
    for loss, coef, s in zip(losses(track, hyper), hyper['coefs'], stats[name], strict=True):
      part += coef * (jnp.where(c.keep, loss.term(out, kept, c.adv, s), 0.) * weight[name])
    parts[name] = part
  return parts


def total(tracks: Mapping[str, Track], hypers: Mapping, out: Out, batch: Batch, credits: Mapping[str, Credit],
          weight: Mapping[str, Array], stats: Mapping[str, list]) -> tuple[Array, dict[str, Array]]:
  """The loss of some rows of a minibatch, and each track's part of it before its own coefficient."""
  parts = {name: jnp.sum(part) for name, part in terms(tracks, hypers, out, batch, credits, weight, stats).items()}
  return sum((hypers[name]['coef'] * part for name, part in parts.items()), jnp.float32(0)), parts
