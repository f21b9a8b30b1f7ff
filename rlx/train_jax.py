"""A whole training run as one pure function: `rollout_jax`, the credit and losses of a track, an update, all in one jit.

For small questions asked often: `vmap` it over seeds and tasks. The loop for language models is `train.py`; methods are the same.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlx import tree
from rlx.grow import rollout_jax
from rlx.learn import objective
from rlx.types import Array, Batch, DeviceEnv, Out


class Recipe(NamedTuple):
  """What one method is, and how its forest grows."""
  tracks: Mapping[str, objective.Track]
  transforms: Sequence = ()        # bound transforms that ask for no model
  fork: int = 0                    # steps that paths 2k and 2k + 1 share
  greedy: bool = False             # the last path of each prompt is greedy


def train(env: DeviceEnv, recipe: Recipe, key: Array, *, hypers: Mapping, updates: int = 60, groups: int = 8, width: int = 8,
          learning_rate: float = .1, value_weight: float = .5) -> Array:
  """Trains a policy of one layer from scratch.

    each update: forest -> transforms -> credit -> sum over tracks of the loss + value_weight (V - target)^2 per critic the credit has -> Adam

  Args:
    env: what is played.
    recipe: tracks and transforms, bound as in a run.
    key: the seed's.
    hypers: `objective.floats` of the tracks; traced.
    updates: how many.
    groups: prompts a forest, taken in turn from the environment's.
    width: paths a prompt.
    learning_rate: of Adam.
    value_weight: of the critics' loss.

  Returns:
    `[updates]` mean return on 'task' of the paths of each forest, before its update.
  """
  tx = optax.adam(learning_rate)
  prompts = jnp.arange(groups, dtype=jnp.int32) % env.prompts
  first = rollout_jax.init(env)

  def update(state, i):
    params, moments, carry, memory = state
    grown, own = jax.random.split(jax.random.fold_in(key, i))
    batch = rollout_jax.rollout(env, params, prompts, grown, width=width, fork=recipe.fork, greedy=recipe.greedy)
    runtime = dict(step=i, key=own, models={})
    memory = list(memory)
    for j, t in enumerate(recipe.transforms):
      memory[j], batch = objective.apply(t, t.floats(), memory[j], batch, **runtime)
    batch, credits, carry = objective.credit(recipe.tracks, hypers, carry, batch, **runtime)
    weight = objective.weights(recipe.tracks, hypers, batch, credits)
    carry, stats = objective.prepare(recipe.tracks, hypers, carry, _out(env, params, batch), batch, credits, runtime['key'])

    def loss(params):
      out = _out(env, params, batch)
      return objective.total(recipe.tracks, hypers, out, batch, credits, weight, stats)[0] + value_weight * _critics(out, batch)
    grads = jax.grad(loss)(params)
    with jax.numpy_dtype_promotion('standard'):      # optax mixes dtypes
      steps, moments = tx.update(grads, moments, params)
    ret, on = tree.returns(batch.nodes, 'task')
    if recipe.greedy:
      on &= batch.nodes.label['drawn'] > 0
    success = jnp.sum(jnp.where(on, ret, 0.)) / jnp.maximum(jnp.sum(on, dtype=jnp.float32), 1.)
    return (optax.apply_updates(params, steps), moments, carry, memory), success

  start = first, tx.init(first), objective.init(recipe.tracks), objective.memory(recipe.transforms)
  return jax.lax.scan(update, start, jnp.arange(updates, dtype=jnp.int32))[1]


def _out(env, params, batch: Batch) -> Out:
  logp, entropy, value = rollout_jax.evaluate(env, params, batch)
  return Out(logp=logp, entropy=entropy, value=value, extra={})


def _critics(out, batch):
  """Mean squared error of every head that the credit gave a target."""
  mask = batch.tokens.mask
  error = lambda head: jnp.mean(jnp.square(out.value[head] - batch.tokens.stream[f'target/{head}']), where=mask)
  return sum((error(h) for h in rollout_jax.HEADS if f'target/{h}' in batch.tokens.stream), jnp.float32(0))
