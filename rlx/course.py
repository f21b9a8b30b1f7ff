"""What a run carries from step to step and from process to process."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlx import assemble
from rlx.config import ConfigError
from rlx.learn import checkpoint, state


@dataclasses.dataclass
class Course:
  """Where a run is: everything beside arrays that decides its future, kept in every checkpoint."""
  phase: int = 0
  step: int = 0             # of the phase, done
  total: int = 0            # of the run, done
  prompts: int = 0          # admitted so far
  taken: int = 0            # groups taken from the phase's source
  drawn: Any = None         # the curriculum's state
  memory: list = dataclasses.field(default_factory=list)   # of the phase's rewards
  wall_s: float = 0.
  backstops: float = 0.


def kept(folder: str, step: int) -> dict[str, Any]:
  """What a checkpoint keeps beside arrays."""
  return checkpoint.restore(folder, {}, step=step, subset=True)[1]


def inherit(models: Mapping[str, Any], theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
  """The models with the parameters of another run, where it has them."""
  out = {}
  for name, m in models.items():
    given = theirs[name].params if name in theirs else m.params
    shapes = [jax.tree.map(lambda x: x.shape, p) for p in (m.params, given)]
    if shapes[0] != shapes[1]:
      raise ConfigError(f"init_from '{where}': its model '{name}' has other shapes than this config's; make c.models.{name} equal.")
    out[name] = m._replace(params=jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), given, m.params))
  return out


def first_states(phase: assemble.Phase, world: assemble.World) -> dict[str, Any]:
  """What a phase begins with: fresh optimizers and carries, and the models nobody trains."""
  trained = {l.model: l for l in phase.learners}
  specs = phase.config.models
  copied = {n: s['copy'] for n, s in specs.items() if assemble.copies(s)}
  params = {n: jax.tree.map(jnp.copy, world.models[copied[n]].params) if n in copied else world.models[n].params for n in world.models}
  return dict(states={l.name: state.create(params[m], l.tx, l.tracks) for m, l in trained.items()},
              frozen={n: p for n, p in params.items() if n not in trained})
