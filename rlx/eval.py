"""Scores a policy on splits of its environment: `python -m rlx.eval --workdir runs/quickstart-0 --split held_out_questions`.

`--config configs/x.py [--config.key=value ...]` in place of `--workdir` scores the models of a config as they begin.
"""

import copy
import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from rlx import walk
from rlx.explorers.flat import flat
from rlx.grow import engine as engines
from rlx.grow import rollout
from rlx.show import stats, summary


def evaluate(pool: Mapping[str, engines.Engine], plan: rollout.Plan, *, split: str, prompts: int, temperature: float,
             key: jax.Array, samples: int = 1, first: bool = False) -> dict[str, float]:
  """Answers prompts of a split and counts.

  Args:
    pool: the engines, with current parameters.
    plan: of the run; its explorer is replaced by `samples` flat rollouts, its probes are left out.
    split: of the environment.
    prompts: at most so many; the same ones every time, spread evenly over the split, unless `first`.
    temperature: 0 is greedy.
    key: seed of the draws.
    samples: answers a prompt.
    first: take the first ones of the split, as a published number on its first hundred does.

  Returns:
    `accuracy` with `_low` and `_high` of its 95 % Wilson interval (over answers), and everything `summarise` gives; the
    environment's metrics without `env/`, unless that is the name of another number. Rewards keep the memory they had.
  """
  tasks = plan.env.tasks(split)
  if not len(tasks):
    raise ValueError(f"split '{split}' has no tasks.")
  n = min(prompts, len(tasks))
  places = range(n) if first else np.linspace(0, len(tasks) - 1, n).round()
  picks = [tasks[int(i)]._replace(width=samples) for i in places]
  plan = dataclasses.replace(plan, explorer=flat(width=samples), probes=(), scorers={},
                             sampling={**plan.sampling, 'temperature': temperature})
  memories = [(f, copy.deepcopy(f.state)) for f in plan.rewards if hasattr(f, 'state')]
  try:
    groups = list(rollout.rollout(pool, picks, plan=plan, key=key))
  finally:
    for f, state in memories:      # they are the training run's
      f.state = state
  seen = summary.summarise(groups, score=getattr(plan.env, 'score', None))
  # an episode that failed or never began is an answer too: a wrong one
  right, count = correct(groups), n * samples
  low, high = stats.wilson(right, count)
  ours = dict(accuracy=right / count, accuracy_low=low, accuracy_high=high)
  taken = {*seen, *ours}
  return {**{k if (short := k.removeprefix('env/')) in taken else short: v for k, v in seen.items() if k != 'success'}, **ours}


def correct(groups: Iterable) -> int:
  """Episodes that were right: the environment's 'correct', or a return above 0.5 on 'task'."""
  total = 0
  for group in groups:
    for e in walk.episodes(group):
      said = [node.metrics['correct'] for node in e.nodes if 'correct' in node.metrics]
      total += bool(said[-1] > .5) if said else sum(node.reward.get('task') or 0. for node in e.nodes) > .5
  return total


def main(argv: list[str] | None = None) -> int:
  """The command: one line a split and temperature, and with `--json PATH` the numbers."""
  from rlx import config, session
  known = ('workdir', 'config', 'split', 'prompts', 'samples', 'temperature', 'step', 'first', 'seed', 'json')
  try:
    flags, values = config.arguments(sys.argv[1:] if argv is None else argv)
    if unknown := sorted(set(flags) - set(known)):
      raise config.ConfigError(f'unknown option --{unknown[0]}; there are {", ".join(f"--{k}" for k in known)} and --config.key=value.')
    if empty := sorted(k for k, v in flags.items() if v is True and k != 'first'):
      raise config.ConfigError(f'--{empty[0]} needs a value.')
    if flags.get('first', True) is not True:
      raise config.ConfigError(f"--first takes no value, it is followed by '{flags['first']}'.")
    if ('workdir' in flags) == ('config' in flags):
      raise config.ConfigError('give --workdir the folder of a run, such as runs/quickstart-0, or --config a path such as '
                               'configs/quickstart.py, whose models are scored as they begin; one of the two.')
    if 'workdir' in flags and values:
      raise config.ConfigError(f'--config.{sorted(values)[0]} goes with --config; a run in --workdir keeps its config.')
    if 'config' in flags and 'step' in flags:
      raise config.ConfigError('--step goes with --workdir: the models of a config have no steps behind them.')
    run = (session.load(flags['workdir'], step=flags.get('step')) if 'workdir' in flags else
           session.create(config.load(flags['config'], values)))
    splits = str(flags.get('split', ','.join(run.config.eval.splits.values()) or 'train')).split(',')
    results: dict[str, Any] = {}
    for split in splits:
      for t in (float(x) for x in str(flags.get('temperature', '0,1')).split(',')):
        r = run.evaluate(split, prompts=int(flags.get('prompts', run.config.eval.prompts)), samples=int(flags.get('samples', 1)),
                         temperature=t, seed=int(flags.get('seed', 0)), first='first' in flags)
        how = 'greedy' if t == 0 else f'sampled T={t:g}'
        print(f'{split} {how}: accuracy {r["accuracy"]:.3f} (95 % {r["accuracy_low"]:.3f} to {r["accuracy_high"]:.3f}), '
              f'{int(r["episodes"])} episodes, {r["turns"]:.2f} turns', flush=True)
        results[f'{split}/{t:g}'] = r
    if 'json' in flags:
      with open(flags['json'], 'w', encoding='utf-8') as f:
        json.dump(results, f, indent=1)
  except (config.ConfigError, FileNotFoundError, ValueError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  return 0


if __name__ == '__main__':
  sys.exit(main())
