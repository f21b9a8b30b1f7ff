"""A finished or running run, opened again: `rlx.load(workdir).sample('prompt')`."""

import dataclasses
import json
import os
from typing import Any

import jax
import ml_collections

from rlx import assemble
from rlx import course as courses
from rlx.config import ConfigError
from rlx.eval import evaluate
from rlx.grow import engine as engines
from rlx.grow import rollout
from rlx.learn import checkpoint
from rlx.learn import mesh as meshes
from rlx.types import Group


@dataclasses.dataclass(frozen=True)
class Session:
  """A run's config, environment, tokenizer and the parameters of one checkpoint."""
  config: ml_collections.ConfigDict
  world: assemble.World
  plan: rollout.Plan
  pool: dict[str, engines.Engine]
  step: int

  def sample(self, prompt: str, *, temperature: float = 1., seed: int = 0) -> str:
    """What the policy says to a text, one turn."""
    engine = self.pool['policy']
    ids = self.world.tokenizer.turn(prompt, True)
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

  def evaluate(self, split: str, *, prompts: int = 256, temperature: float = 1., samples: int = 1, seed: int = 0) -> dict[str, float]:
    """`rlx.eval.evaluate` with this run's parameters."""
    return evaluate(self.pool, self.plan, split=split, prompts=prompts, temperature=temperature, samples=samples, key=jax.random.key(seed))


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
    c = ml_collections.ConfigDict(tuples(json.load(f)), type_safe=False)
  env = assemble.environment(c)
  tok = assemble.tokenizer(c, env, workdir)
  models = assemble.models(c, tok, meshes.create(**c.mesh), assemble.heads(c))
  meta = courses.kept(folder, newest)
  made = [assemble.phase(one, env) for one in assemble.phases(c)]
  at = made[min(meta['course']['phase'], len(made) - 1)]
  world = assemble.World(env, tok, models, None)
  saved = checkpoint.restore(folder, courses.first_states(at, world), step=newest)[0]
  params = {**saved['frozen'], **{l.model: saved['states'][l.name].params for l in at.learners}}
  models = {n: m._replace(params=params[n]) for n, m in models.items()}
  return c, world._replace(models=models), made[-1].plan, newest


def tuples(value: Any) -> Any:
  """JSON's lists as the tuples a config has."""
  if isinstance(value, dict):
    return {k: tuples(v) for k, v in value.items()}
  return tuple(tuples(v) for v in value) if isinstance(value, list) else value
