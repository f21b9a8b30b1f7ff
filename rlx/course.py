"""What a run carries from step to step and from process to process."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from rlx import assemble
from rlx.config import ConfigError
from rlx.learn import checkpoint, objective, state
from rlx.learn.partition import combine, partition, rest, trained
from rlx.models import lora

BASE = 'base'      # folder of a run


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
  """The models with the parameters of another run, where it has them; adapters that ours do not have are merged into them."""
  out = {}
  for name, m in models.items():
    given = theirs[name].params if name in theirs else m.params
    try:
      if jax.tree.structure(given) != jax.tree.structure(m.params) and 'layers' in m.params:
        given = lora.arranged(lora.whole(given), m.params)
      fits = jax.tree.map(lambda x, y: x.shape == y.shape, given, m.params)
    except (ValueError, KeyError, TypeError):
      fits = False
    if not jax.tree.all(fits):
      raise ConfigError(f"init_from '{where}': its model '{name}' has other shapes than this config's; make c.models.{name} equal.")
    out[name] = m._replace(params=jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), given, m.params))
  return out


def keep_bases(models: Mapping[str, Any], own: Mapping[str, Any], workdir: str) -> None:
  """Writes to `base/` what is not trained and is not what the config makes (`own`): no checkpoint has it, nor will it change."""
  folder = os.path.join(workdir, BASE)
  shutil.rmtree(folder, ignore_errors=True)      # of a run that was killed before its first checkpoint
  parts = {n: [rest(p, trained(m.policy, p)) for p in (m.params, own[n].params)] for n, m in models.items()}
  same = jax.tree.map(lambda x, y: x is y or bool(jnp.array_equal(x, y)), *({n: p[i] for n, p in parts.items()} for i in (0, 1)))
  if not jax.tree.all(same):
    checkpoint.save(folder, 0, {n: p[0] for n, p in parts.items()})


def rebase(models: Mapping[str, Any], workdir: str) -> dict[str, Any]:
  """The models on the bases that `keep_bases` wrote, where it did."""
  folder = os.path.join(workdir, BASE)
  if checkpoint.latest(folder) is None:
    return dict(models)
  parts = {n: partition(m.params, m.policy.trainable) for n, m in models.items()}
  kept = checkpoint.restore(folder, {n: base for n, (_, base) in parts.items()})[0]
  return {n: m._replace(params=combine(parts[n][0], kept[n])) for n, m in models.items()}


def bases(phase: assemble.Phase, world: assemble.World) -> dict[str, Any]:
  """model -> the parameters that are not trained, None where all are. A copy shares those of its original."""
  def base(name, spec):
    policy, params = world.models[name].policy, world.models[spec['copy'] if assemble.copies(spec) else name].params
    return rest(params, trained(policy, params))
  return {name: base(name, spec) for name, spec in phase.config.models.items()}


def first_states(phase: assemble.Phase, world: assemble.World) -> dict[str, Any]:
  """What a phase begins with: fresh optimizers, carries and memories of transforms, and the models nobody trains, all without their bases."""
  learnt = {l.model: l for l in phase.learners}
  specs = phase.config.models
  copied = {n: s['copy'] for n, s in specs.items() if assemble.copies(s)}
  params = {n: trained(m.policy, world.models[copied.get(n, n)].params) for n, m in world.models.items()}
  params = {n: jax.tree.map(jnp.copy, p) if n in copied else p for n, p in params.items()}
  memory = objective.memory(phase.transforms)
  return dict(states={l.name: state.create(params[m], l.tx, l.tracks) for m, l in learnt.items()},
              frozen={n: p for n, p in params.items() if n not in learnt}, **({'memory': memory} if jax.tree.leaves(memory) else {}))


def parameters(kept: Mapping[str, Any], phase: assemble.Phase, bases: Mapping[str, Any]) -> dict[str, Any]:
  """model -> all of its parameters, from what `first_states` began or a checkpoint kept."""
  own = {**kept['frozen'], **{l.model: kept['states'][l.name].params for l in phase.learners}}
  return {n: combine(p, bases[n]) for n, p in own.items()}
