"""Rollouts inside jit: a `DeviceEnv`, a policy of one layer, a forest of fixed shape.

Every prompt is answered by `width` paths of `env.turns` steps; steps behind an end are padding. With `fork`, paths 2k and 2k + 1 are one
path for that many steps and two afterwards, so that there are trees to learn from. All of it is a pure function of arrays: `vmap` it over
seeds and tasks.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlx.types import Array, Batch, DeviceEnv, Nodes, Tokens

HEADS = ('value', 'low', 'high', 'term')
FEATURES = 10


def init(env: DeviceEnv) -> dict[str, Any]:
  """Weights of each symbol of an action `[F, actions[u]]` and of each head's value `[F]` on the features of an observation; all 0."""
  return dict(symbols=[jnp.zeros((FEATURES, n)) for n in env.actions], values={h: jnp.zeros(FEATURES) for h in HEADS})


def features(env: DeviceEnv) -> Array:
  """`[observations, F]` fixed unit vectors, fewer dimensions than observations: what is learned of one is felt by all."""
  x = jax.random.normal(jax.random.key(0), (env.observations, FEATURES))
  return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def speak(params: dict, x: Array) -> list[Array]:
  """Log-probabilities `[..., actions[u]]` of each symbol u at features x `[..., F]`."""
  return [jax.nn.log_softmax(x @ w) for w in params['symbols']]


def evaluate(env: DeviceEnv, params: dict, batch: Batch) -> tuple[Array, Array, dict[str, Array]]:
  """What the parameters say of a forest of `rollout`: log-probability and entropy `[R, T]` of its symbols, values by head."""
  ids, x = batch.tokens.ids, features(env)[batch.tokens.stream['seen'].astype(jnp.int32)]
  rows, count = ids.shape[0], len(params['symbols'])
  said, logp, entropy = ids.reshape(rows, -1, count), [], []
  for u, log_p in enumerate(speak(params, x[:, ::count])):
    logp.append(jnp.take_along_axis(log_p, said[:, :, u:u + 1], -1)[..., 0])
    entropy.append(-jnp.sum(jnp.exp(log_p) * log_p, -1))
  flat = lambda xs: jnp.where(batch.tokens.sampled, jnp.stack(xs, -1).reshape(ids.shape), 0.)
  return flat(logp), flat(entropy), {h: jnp.where(batch.tokens.sampled, x @ v, 0.) for h, v in params['values'].items()}


def rollout(env: DeviceEnv, params: dict, prompts: Array, key: Array, *, width: int, fork: int = 0, greedy: bool = False) -> Batch:
  """Grows a forest.

  Args:
    env: what is played.
    params: as of `init`.
    prompts: `[G]` i32, those that are answered.
    key: of everything drawn.
    width: paths a prompt.
    fork: steps that paths 2k and 2k + 1 share; 0: none.
    greedy: the last path of each prompt takes the likeliest symbols; its steps have label 'drawn' 0.

  Returns:
    A batch of G * width * turns steps and G * width rows of turns * len(actions) tokens. Beside the environment's labels there are
    'drawn' and 'source'; values 'p_answer', 'acc' and 'conf' are the log-probability and the probability of the answer if it had to be given
    now, and exp of minus the entropy there, 0 where the prompt has no answer; streams 'entropy', 'old_logp', 'ref_logp' (of equal symbols), 'seen' and
    'value/<head>'; roles 'switch', 'plan' and 'action' where an action has three symbols.

  Raises:
    ValueError: `fork` with an odd width, as long as an episode, or with `greedy`.
  """
  turns, count, paths = env.turns, len(env.actions), prompts.shape[0] * width
  if fork and (width % 2 or fork >= turns or greedy):
    raise ValueError(f'fork needs an even width, episodes of more steps and no greedy path: width {width}, fork {fork}, {turns} turns, '
                     f'greedy {greedy}.')
  path, table = jnp.arange(paths, dtype=jnp.int32), features(env)
  best = (path % width == width - 1) if greedy else jnp.zeros(paths, bool)
  asked = jnp.repeat(prompts.astype(jnp.int32), width, total_repeat_length=paths)

  def turn(carry, t):
    state, alive = carry
    who = jnp.where(t < fork, path - path % 2, path)                       # twins draw the same as long as they are one
    keys = jax.vmap(lambda w: jax.random.fold_in(jax.random.fold_in(key, w), t))(who)
    seen = jax.vmap(env.observe)(state)
    log_p = speak(params, table[seen])
    said = [jnp.where(best, jnp.argmax(p, -1), jax.vmap(lambda k, q, u=u: jax.random.categorical(jax.random.fold_in(k, u), q))(keys, p))
            for u, p in enumerate(log_p)]
    action = jnp.stack(said, -1).astype(jnp.int32)
    logp = jnp.stack([jnp.take_along_axis(p, a[:, None], -1)[:, 0] for p, a in zip(log_p, said, strict=True)], -1)
    entropy = jnp.stack([-jnp.sum(jnp.exp(p) * p, -1) for p in log_p], -1)
    after, got = jax.vmap(env.step)(state, action, jax.vmap(lambda k: jax.random.fold_in(k, count))(keys))
    gold, ahead = jax.vmap(env.answer)(state), log_p[-1]                   # of what it sees now, before it acts
    has = gold >= 0
    p_answer = jnp.where(has, jnp.take_along_axis(ahead, jnp.maximum(gold, 0)[:, None], -1)[:, 0], 0.)
    conf, acc = jnp.where(has, jnp.exp(-entropy[:, -1]), 0.), jnp.where(has, jnp.exp(p_answer), 0.)
    return (after, alive & (got.end == 0)), (seen, action, logp, entropy, alive, got, dict(p_answer=p_answer, conf=conf, acc=acc))

  first = jax.random.split(key, paths)[path - path % 2 if fork else path]     # twins begin as one
  start = jax.vmap(env.reset)(asked, first)
  _, columns = jax.lax.scan(turn, (start, jnp.ones(paths, bool)), jnp.arange(turns, dtype=jnp.int32))
  seen, action, logp, entropy, alive, got, probed = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), columns)     # [path, turn ...]

  at = jnp.arange(turns, dtype=jnp.int32)[None, :]
  twin = (path % 2 == 1)[:, None] & (at < fork)                            # these steps are the other path's
  owner = jnp.where(twin, path[:, None] - 1, path[:, None]) * turns + at
  valid = alive & ~twin
  before = jnp.where((path % 2 == 1)[:, None] & (at == fork) & (fork > 0), path[:, None] - 1, path[:, None]) * turns + at - 1
  flat = lambda x, other=0: jnp.where(valid, x, jnp.asarray(other, x.dtype)).ravel()
  spread = lambda x: jnp.broadcast_to(x[:, None], valid.shape)
  group = jnp.repeat(jnp.arange(prompts.shape[0], dtype=jnp.int32), width, total_repeat_length=paths)
  label = {**got.label, 'drawn': spread((~best).astype(jnp.int32)), 'source': jnp.zeros_like(owner)}
  # what an answer would be is known before a step acts; a probe stands behind the step before it
  shifted = lambda x: jnp.concatenate([x[:, 1:], jnp.zeros_like(x[:, :1])], 1)
  nodes = Nodes(
      parent=flat(jnp.where(at == 0, -1, before), -1), group=flat(spread(group)), valid=valid.ravel(), end=flat(got.end),
      reward={k: flat(x) for k, x in got.reward.items()}, judged={}, label={k: flat(x) for k, x in label.items()},
      value={k: flat(jnp.where(got.end == 0, shifted(x), 0.)) for k, x in probed.items()})
  wide = lambda x: jnp.repeat(x, count, axis=1, total_repeat_length=turns * count)
  there = wide(alive)
  tokens = lambda x: jnp.where(there, x.reshape(paths, -1), jnp.zeros((), x.dtype))
  drawn = tokens(logp)
  streams = dict(entropy=tokens(entropy), old_logp=drawn, ref_logp=jnp.where(there, -jnp.log(jnp.asarray(env.actions, jnp.float32))[None].repeat(
      turns, 0, total_repeat_length=turns).reshape(1, -1), 0.), seen=jnp.where(there, wide(seen).astype(jnp.float32), 0.))
  batch = Batch(
      nodes=nodes, prompt={**{k: x[::width, 0] for k, x in probed.items()}, 'source': jnp.zeros(prompts.shape[0])},
      tokens=Tokens(ids=tokens(action), node=jnp.where(there, wide(owner), -1), segment=jnp.where(there, 0, -1),
                    position=jnp.where(there, jnp.arange(turns * count, dtype=jnp.int32)[None], 0), sampled=there, mask=wide(valid),
                    logp=drawn, stream=streams, role=_roles(there, count)))
  values = {f'value/{h}': jnp.where(there, wide(table[seen] @ v), 0.) for h, v in params['values'].items()}
  return _with_streams(batch, values)


def _roles(there, count):
  if count != 3:
    return dict(action=there)
  which = jnp.arange(there.shape[1]) % 3
  return {name: there & (which == u)[None] for u, name in enumerate(('switch', 'plan', 'action'))}


def _with_streams(batch, streams):
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream={**batch.tokens.stream, **streams}))
