"""Scores a policy on splits of its environment: `python -m rlx.eval --workdir runs/quickstart-0 --split held_out_questions`."""

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
             key: jax.Array, samples: int = 1) -> dict[str, float]:
  """Answers prompts of a split and counts.

  Args:
    pool: the engines, with current parameters.
    plan: of the run; its explorer is replaced by `samples` flat rollouts, its probes are left out.
    split: of the environment.
    prompts: at most so many; the same ones every time, spread evenly over the split.
    temperature: 0 is greedy.
    key: seed of the draws.
    samples: answers a prompt.

  Returns:
    `accuracy` with `_low` and `_high` of its 95 % Wilson interval (over answers), and everything `summarise` gives; the
    environment's metrics without `env/`, unless that is the name of another number. Rewards keep the memory they had.
  """
  tasks = plan.env.tasks(split)
  if not len(tasks):
    raise ValueError(f"split '{split}' has no tasks.")
  n = min(prompts, len(tasks))
  picks = [tasks[int(i)]._replace(width=samples) for i in np.linspace(0, len(tasks) - 1, n).round()]
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
  flags, _ = config.arguments(sys.argv[1:] if argv is None else argv)
  unknown = set(flags) - {'workdir', 'split', 'prompts', 'samples', 'temperature', 'step', 'json', 'seed', 'env'}
  try:
    if unknown:
      raise config.ConfigError(f'unknown option --{sorted(unknown)[0]}; there are --workdir, --split, --prompts, --samples, '
                               '--temperature, --step, --seed and --json.')
    if 'workdir' not in flags:
      raise config.ConfigError('give --workdir the folder of a run, such as runs/quickstart-0.')
    run = session.load(flags['workdir'], step=flags.get('step'))
    splits = str(flags.get('split', ','.join(run.config.eval.splits.values()) or 'train')).split(',')
    results: dict[str, Any] = {}
    for split in splits:
      for t in (float(x) for x in str(flags.get('temperature', '0,1')).split(',')):
        r = run.evaluate(split, prompts=int(flags.get('prompts', run.config.eval.prompts)), samples=int(flags.get('samples', 1)),
                         temperature=t, seed=int(flags.get('seed', 0)))
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
