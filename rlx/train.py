"""Trains: `python -m rlx.train --config configs/quickstart.py [--workdir DIR] [--config.key=value ...] [--check]`.

`iterate` is the loop, read top to bottom; it knows no algorithm. `run` goes through it and returns the history.
"""

import dataclasses
import gc
import itertools
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rlx import assemble, compilation, config
from rlx import course as courses
from rlx.check import check, contexts
from rlx.config import ConfigError
from rlx.eval import evaluate
from rlx.grow import engine as engines
from rlx.grow import forest, labels, rollout
from rlx.learn import checkpoint, pack
from rlx.learn import mesh as meshes
from rlx.learn import step as steps
from rlx.show import metrics, plots, progress, report, summary


def iterate(c: ml_collections.ConfigDict, *, stages: Callable | None = None) -> Iterator[dict[str, Any]]:
  """Runs a config step by step.

  Args:
    c: the config.
    stages: called with the name of each stage as it begins (for tests).

  Yields:
    The record of each step, as written to metrics.jsonl.

  Raises:
    ConfigError: the config cannot work; before anything is trained.
  """
  stages = stages or (lambda name: None)
  began = time.perf_counter()
  workdir = folder_of(c)
  compilation.keep_memory()
  compilation.cache(c.cache)
  world, phases = start(c, workdir)
  course, resumed = courses.Course(), None
  key = jax.random.key(c.seed)
  folder = os.path.join(workdir, 'checkpoints')

  # ---- go on where a checkpoint stands -----------------------------------------------------------------------------
  if (newest := checkpoint.latest(folder)) is not None:
    checkpoint.clean(folder)
    course = courses.Course(**courses.kept(folder, newest)['course'])
    resumed = newest
    print(f'{workdir}: continuing at step {course.total}', flush=True)
  metrics.cut(workdir, course.total - 1)
  wall0 = course.wall_s
  pool = assemble.engines(c, world.models)
  bar = progress.Progress(c.name, [(p.name, p.steps) for p in phases], done=course.total)

  with bar, metrics.Writer(workdir) as writer, metrics.Episodes(workdir, first=c.episodes.keep, every=c.episodes.every) as episodes:
    for number in range(course.phase, len(phases)):
      phase = phases[number]
      kept = courses.first_states(phase, world)
      if resumed is not None:
        kept, resumed = checkpoint.restore(folder, kept, step=resumed)[0], None
      states, frozen, memory = kept['states'], kept['frozen'], kept.get('memory', [()] * len(phase.transforms))
      bases = courses.bases(phase, world)
      if course.drawn is None:
        course.drawn = phase.curriculum.init()
      assemble.remember(phase.plan.rewards, course.memory)
      now = lambda phase=phase, kept=kept, bases=bases: courses.parameters(kept, phase, bases)
      fns = steps.make(phase.learners, phase.transforms, world.models, world.mesh, phase.buckets,
                       temperature=phase.config.sampling.temperature, implementation=phase.config.head)
      columns = pack_columns(phase)
      unit = next(u for u in ('path', 'group', 'row') if u == 'row' or any(l.unit == u for l in phase.learners))
      clock: dict[str, float] = {}
      saving: dict[str, float] = {}      # a checkpoint is written after its step's record: its seconds stand in the next one

      def grow(phase=phase, now=now, clock=clock):
        """Samples tasks and grows them with the newest parameters."""
        course.drawn, tasks = phase.curriculum.sample(course.drawn, phase.prompts, course.total)
        for name, p in now().items():
          engines.refresh(pool[name], p)
        first, course.prompts = course.prompts, course.prompts + len(tasks)
        return rollout.rollout(pool, tasks, plan=phase.plan, key=jax.random.fold_in(jax.random.fold_in(key, course.total), 1), first=first, clock=clock)

      source = phase.source.call(env=world.env, tokenizer=world.tokenizer, context=phase.plan.context, grow=grow,
                                 start=course.taken, seed=c.seed)
      shown = 'grow' not in phase.source.takes     # demonstrations: nothing in them depends on the policy
      ahead = None                                 # the next step's, fetched while the device works

      def fetch(phase=phase, source=source, columns=columns, unit=unit):
        """The groups of a step, and their batches."""
        groups = sorted(itertools.islice(source, phase.prompts), key=lambda g: g.index)
        mark = time.perf_counter()
        parts = [forest.cut(g, phase.segment, world.tokenizer.offsets) for g in groups]
        packed = pack.pack(parts, rows=phase.rows, buckets=phase.buckets, labels=phase.labels, intern=labels.intern,
                           unit=unit, **columns)
        return groups, packed, time.perf_counter() - mark

      while course.step < phase.steps:
        step_began = time.perf_counter()
        clock.clear()
        clock.update(saving)
        saving.clear()
        drawn = sum(e.drawn for e in pool.values())

        # ---- grow and pack ---------------------------------------------------------------------------------------
        stages('grow')
        groups, packed, clock['pack'] = ahead() if ahead else fetch()
        ahead = None
        sampled = sum(e.drawn for e in pool.values()) - drawn
        course.taken += len(groups)
        course.drawn = phase.curriculum.update(course.drawn, groups)
        seen = summary.summarise(groups, score=getattr(world.env, 'score', None))
        course.backstops += seen['backstops']
        if shown:                                  # not to be taken for the policy's
          seen = {f'shown/{k}': v for k, v in seen.items()}
        record = dict(phase=phase.name, **seen, padding=float(np.mean([p.padding for p in packed])),
                      dropped=float(sum(p.dropped for p in packed)))

        # ---- learn -----------------------------------------------------------------------------------------------
        learnt, advantages = {}, {}
        mark = time.perf_counter()
        for part in packed:
          batch = steps.put(part.batch, world.mesh)
          if fns.transform:
            batch, memory = fns.transform(now(), memory, batch, [t.floats(course.total) for t in phase.transforms], np.int32(course.total), key)
          for learner in phase.learners:
            if course.total % learner.every:
              continue
            states[learner.name], results, credit = steps.learn(
                fns, learner, states[learner.name], now(), batch, part, step=course.total, key=key,
                compact=phase.config.compact, stages=stages)
            learnt.setdefault(learner.name, []).extend(results)
            if learner.name == 'policy':
              for name, adv in credit.items():
                advantages.setdefault(name, []).extend(adv)
        if shown and course.step + 1 < phase.steps:
          ahead = attempt(fetch)
        for name, results in jax.device_get(learnt).items():
          prefix = '' if name == 'policy' else f'{name}/'
          told = steps.averaged(results)
          if shown:                                # they have no behaviour to compare with
            told = {k: v for k, v in told.items() if k not in ('kl', 'ratio_gap', 'logp_gap', 'clip_share')}
          record.update({prefix + k: v for k, v in told.items()})
        clock['update'] = time.perf_counter() - mark

        # ---- look ------------------------------------------------------------------------------------------------
        course.step, course.total = course.step + 1, course.total + 1
        course.memory = assemble.memory(phase.plan.rewards)
        last = course.step == phase.steps
        looks = phase.config.eval
        if looks.splits and (last and (looks.phases is None or phase.name in looks.phases) or looks.every and course.step % looks.every == 0):
          mark = time.perf_counter()
          for name, p in now().items():
            engines.refresh(pool[name], p)
          for label, split in looks.splits.items():
            for t in looks.temperatures:
              got = evaluate(pool, phase.plan, split=split, prompts=looks.prompts, temperature=float(t), key=jax.random.key(c.seed + 1))
              record.update({f'eval/{label}/{t:g}/{k}': v for k, v in got.items()})
              course.backstops += got['backstops']
          clock['eval'] = time.perf_counter() - mark
          bar.say('  '.join([f'{phase.name} {course.step}:'] + [
              f'{label} T={t:g} {record[f"eval/{label}/{t:g}/accuracy"]:.3f}' for label in looks.splits for t in looks.temperatures]))
        if 'sample' in clock:
          record['tokens_sampled'] = float(sampled)
          record['tokens_per_s/sample'] = record['tokens_sampled'] / max(clock['sample'], 1e-9)
        record['tokens_trained'] = float(sum(int(p.batch.tokens.mask.sum()) for p in packed))
        record['tokens_per_s/update'] = record['tokens_trained'] / max(clock['update'], 1e-9)
        record.update({f'seconds/{k}': v for k, v in clock.items()}, seconds=time.perf_counter() - step_began,
                      memory_mb=peak_mb(), compiles=float(sum(compilation.programs().values())))
        course.wall_s = record['wall_s'] = wall0 + time.perf_counter() - began
        episodes.write(course.total - 1, [g for p in packed for g in p.groups], advantages)

        # ---- keep ------------------------------------------------------------------------------------------------
        over = last and number + 1 < len(phases)
        if over:                              # the next phase begins with a fresh optimizer, a fresh source
          course = courses.Course(**{**dataclasses.asdict(course), 'phase': number + 1, 'step': 0, 'taken': 0, 'drawn': None, 'memory': []})
        record = writer.write(course.total - 1, record)
        if last or (phase.config.checkpoint.every and course.step % phase.config.checkpoint.every == 0):
          mark = time.perf_counter()
          stages('checkpoint')
          if over:
            world = world._replace(models={n: m._replace(params=now()[n]) for n, m in world.models.items()})
            keep = courses.first_states(phases[number + 1], world)
          else:
            keep = dict(states=states, frozen=frozen, **({'memory': memory} if 'memory' in kept else {}))
          saves = phase.config.checkpoint
          best = record.get(saves.best) if saves.best else None
          checkpoint.save(folder, course.total, keep, keep=saves.keep, best=best,
                          meta=dict(course=dataclasses.asdict(course), config=assemble.fingerprint(c)))
          saving['checkpoint'] = time.perf_counter() - mark
        bar.update(record)
        yield record
        if over:
          break


def attempt(fn: Callable) -> Callable:
  """Calls it now; what it gave or raised comes when the result is called."""
  try:
    got = fn()
    return lambda: got
  except Exception as e:
    error = e

    def fail():
      raise error
    return fail


# ---- whole runs ------------------------------------------------------------------------------------------------------------

def run(c: ml_collections.ConfigDict, **overrides: Any) -> plots.History:
  """Trains to the end.

  Args:
    c: the config; it is not changed.
    **overrides: dotted key -> value, `run(c, **{'tracks.main.estimator': (mine,)})`; values may be callables.

  Returns:
    The records, with `.plot()` and `.column(name)`.
  """
  c = config.override(c.copy_and_resolve_references(), overrides)
  return plots.History(list(iterate(c)))


def summarised(c: ml_collections.ConfigDict, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """The fields of the last line: 'metric' is its newest value, 'metric@phase' the newest of that phase."""
  out: dict[str, Any] = {}
  for field, source in c.summary:
    name, _, phase = source.partition('@')
    values = [r[name] for r in records if r.get(name) is not None and phase in ('', r['phase'])]
    out[field] = float(values[-1]) if values else float('nan')
  out['wall_s'] = float(records[-1]['wall_s']) if records else 0.
  out['peak_mb'] = max((float(r['memory_mb']) for r in records), default=0.)
  return out


def main(argv: Sequence[str] | None = None) -> int:
  """The command."""
  try:
    flags, overrides = config.arguments(sys.argv[1:] if argv is None else argv)
    unknown = set(flags) - {'config', 'workdir', 'check'}
    if unknown:
      raise ConfigError(f'unknown option --{sorted(unknown)[0]}; there are --config, --workdir, --check and --config.key=value.')
    if not isinstance(flags.get('config'), str):
      raise ConfigError('give --config a path such as configs/quickstart.py.')
    c = config.load(flags['config'], overrides)
    if 'workdir' in flags:
      c.workdir = flags['workdir']
    if 'check' in flags:
      env = assemble.environment(c)
      print(check(c, env, [assemble.phase(one, env) for one in assemble.phases(c)]))
      return 0
    phase = None
    for record in iterate(c):
      if record['phase'] != phase:     # what its programs leave behind stays: not to be gone through at every collection
        phase = record['phase']
        gc.freeze()
    finish(c)
  except (ConfigError, checkpoint.CheckpointError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  return 0


def finish(c: ml_collections.ConfigDict) -> None:
  """Curves, the page of episodes, what the compilation cache did, and the last line for machines."""
  workdir = folder_of(c)
  records = metrics.read(os.path.join(workdir, metrics.METRICS))
  if any('success' in r or any(k.endswith('/accuracy') for k in r) for r in records):
    plots.success(records, os.path.join(workdir, 'success.png'), title=c.name)
  plots.curves(records, path=os.path.join(workdir, 'curves.png'))
  report.write(workdir)
  spent = compilation.seconds()
  print(f'{workdir}: metrics.jsonl, TensorBoard events, curves.png, success.png, episodes.jsonl, report.html, checkpoints/')
  print(f'compiling took {spent["spent"]:.1f} s; the cache of compiled programs saved {spent["saved"]:.1f} s')
  values = summarised(c, records)
  if backstops := sum(v for r in records for k, v in r.items() if k.rsplit('/', 1)[-1] == 'backstops'):
    print(f'{backstops:.0f} episodes were ended by a wall-clock backstop: this run may not repeat exactly')
  print(progress.summary_line(c.name, values), flush=True)


def folder_of(c: ml_collections.ConfigDict) -> str:
  """The run's folder."""
  return c.workdir or os.path.join('runs', f'{c.name}-{c.seed}')


# ---- the parts of the loop -------------------------------------------------------------------------------------------------

def start(c: ml_collections.ConfigDict, workdir: str) -> tuple[assemble.World, list[assemble.Phase]]:
  """Checks the config and makes what all phases share; a workdir that belongs to another config is refused."""
  folder = os.path.join(workdir, 'checkpoints')
  if (newest := checkpoint.latest(folder)) is not None:
    theirs, ours = courses.kept(folder, newest)['config'], assemble.fingerprint(c)
    if differing := [k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k)]:
      raise ConfigError(f"workdir '{workdir}' holds a run of another config: {', '.join(sorted(differing))} differ; "
                        'give another --workdir, or delete it to start anew.')
  env = assemble.environment(c)
  phases = [assemble.phase(one, env) for one in assemble.phases(c)]
  check(c, env, phases)
  try:
    os.makedirs(workdir, exist_ok=True)
  except OSError as e:
    raise ConfigError(f"workdir '{workdir}' cannot be made: {e.strerror}; give another --workdir.") from e
  if c.init_from and not os.path.isfile(os.path.join(workdir, 'tokenizer.json')):
    for name in ('tokenizer_config.json', 'tokenizer.json'):
      if os.path.isfile(source := os.path.join(c.init_from, name)):
        shutil.copyfile(source, os.path.join(workdir, name))
  tok = assemble.tokenizer(c, env, workdir)
  contexts(phases, env, tok)
  mesh = meshes.create(**c.mesh)
  own = models = assemble.models(c, tok, mesh, assemble.heads(c))
  if c.init_from:
    from rlx import session   # it reads configs of other runs, which may name this file
    models = courses.inherit(own, session.restored(c.init_from)[1], c.init_from)
  if newest is None:
    courses.keep_bases(models, own, workdir)
  models = courses.rebase(models, workdir)
  kept = config.plain(c)
  if lost := config.nameless(kept):
    logging.getLogger('rlx').warning("'%s' cannot be opened again once it is trained: its config holds %s, which has no name in a module",
                                     workdir, lost[0])
  with open(os.path.join(workdir, 'config.json'), 'w', encoding='utf-8') as f:
    json.dump(kept, f, indent=1)
  return assemble.World(env, tok, models, mesh), phases


def pack_columns(phase: assemble.Phase) -> dict[str, Any]:
  """Which columns every batch of a phase has, so that its shape never changes."""
  made = assemble.columns(phase)
  return dict(channels=made['reward'], roles=made['role'], streams=made['stream'], values=made['value'],
              judged=made['judged'], prompt=made['prompt'], label_names=made['label'])


def peak_mb() -> float:
  """Peak memory of the process, MB."""
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == '__main__':
  sys.exit(main())
