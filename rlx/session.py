"""A run opened again, or a config before it is trained: `rlx.load(workdir).sample('prompt')`, `session.create(c).evaluate('dev')`."""

import dataclasses
import json
import os
from typing import Any

import jax
import ml_collections

from rlx import assemble, compilation, config
from rlx import course as courses
from rlx.config import ConfigError
from rlx.eval import evaluate
from rlx.grow import engine as engines
from rlx.grow import rollout
from rlx.learn import checkpoint
from rlx.learn import mesh as meshes
from rlx.grow.tokenizer import render
from rlx.types import Group, Task, Turn


@dataclasses.dataclass(frozen=True)
class Session:
  """A config, its environment, its tokenizer and the parameters of one checkpoint, or those a run begins with (`step` 0)."""
  config: ml_collections.ConfigDict
  world: assemble.World
  plan: rollout.Plan
  pool: dict[str, engines.Engine]
  step: int

  def sample(self, prompt: str, *, temperature: float = 1., seed: int = 0) -> str:
    """What the policy says to a text, one turn, shown as the run's context shows a first observation."""
    engine = self.pool['policy']
    ids = render(self.plan.context([Turn(prompt)], Task('sample')), [], self.world.tokenizer)
    key = jax.random.key_data(jax.random.fold_in(jax.random.key(seed), 0))
    request = engines.Request(ids, -1, jax.device_get(key), {**self.plan.sampling, 'temperature': temperature}, engine.limits.turn)
    with rollout.vacated(self.pool):
      speech, = engines.speak(engine, [request])
    engines.free(engine, speech.slot)
    return speech.text

  def rollouts(self, split: str = 'train', prompts: int = 1, *, seed: int = 0) -> list[Group]:
    """Whole episodes on the first prompts of a split."""
    tasks = self.plan.env.tasks(split)
    picks = [tasks[i] for i in range(min(prompts, len(tasks)))]
    return sorted(rollout.rollout(self.pool, picks, plan=self.plan, key=jax.random.key(seed)), key=lambda g: g.index)

  def evaluate(self, split: str, *, prompts: int = 256, temperature: float = 1., samples: int = 1, seed: int = 0,
               first: bool = False) -> dict[str, float]:
    """`rlx.eval.evaluate` with these parameters."""
    return evaluate(self.pool, self.plan, split=split, prompts=prompts, temperature=temperature, samples=samples,
                    key=jax.random.key(seed), first=first)


def create(c: ml_collections.ConfigDict) -> Session:
  """The models of a config as they begin, pretrained or fresh (or those of `init_from`): nothing is trained and nothing is written.

  Raises:
    ConfigError: the config cannot work.
  """
  compilation.cache(c.cache)
  world, phases = _open(c, c.init_from)
  if c.init_from:
    world = world._replace(models=courses.inherit(world.models, load(c.init_from).world.models, c.init_from))
  return Session(c, world, phases[-1].plan, assemble.engines(c, world.models), 0)


def _open(c, folder):
  """What both have in common: the world, with the tokenizer saved in `folder`, and the phases."""
  env = assemble.environment(c)
  phases = [assemble.phase(one, env) for one in assemble.phases(c)]
  tok = assemble.tokenizer(c, env, folder)
  models = assemble.models(c, tok, meshes.create(**c.mesh), assemble.heads(c))
  return assemble.World(env, tok, models, None), phases


def load(workdir: str, step: Any = None) -> Session:
  """Opens the newest checkpoint of a run (or the one at `step`, or step='best').

  Raises:
    ConfigError: the folder holds no run, or no checkpoint.
  """
  c, world, plan, newest = _opened(workdir, step)
  return Session(c, world, plan, assemble.engines(c, world.models), newest)


def restored(workdir: str, step: Any = None) -> tuple[ml_collections.ConfigDict, dict[str, Any], int]:
  """(config, models, step) of a run's checkpoint, without slots to sample with; else as `load`."""
  c, world, _, newest = _opened(workdir, step)
  return c, world.models, newest


def _opened(workdir, step):
  path = os.path.join(workdir, 'config.json')
  folder = os.path.join(workdir, 'checkpoints')
  if not os.path.isfile(path):
    raise ConfigError(f"'{workdir}' holds no run: there is no config.json; give the workdir of a run.")
  newest = checkpoint.best(folder) if step == 'best' else checkpoint.latest(folder) if step is None else int(step)
  if newest is None:
    raise ConfigError(f"'{workdir}' holds no checkpoint yet.")
  with open(path, encoding='utf-8') as f:
    c = ml_collections.ConfigDict(config.revived(json.load(f)), type_safe=False)
  world, phases = _open(c, workdir)
  world = world._replace(models=courses.rebase(world.models, workdir))
  meta = courses.kept(folder, newest)
  at = phases[min(meta['course']['phase'], len(phases) - 1)]
  saved = checkpoint.restore(folder, courses.first_states(at, world), step=newest)[0]
  params = courses.parameters(saved, at, courses.bases(at, world))
  models = {n: m._replace(params=params[n]) for n, m in world.models.items()}
  return c, world._replace(models=models), phases[-1].plan, newest
