"""Every method on every probe task: `python -m rlx.table --config configs/tables/probe_matrix.py [--workdir ...]`.

A cell is the area under the learning curve of a policy of one layer, the mean over updates of the mean return; its interval is Student's
over seeds. A row is one program over all tasks and seeds (`train_jax`). Rows that are done are not run again.

Such a table's config is a file with `get_config()`, which returns a mapping:
  tasks     names of probe tasks
  rows      tuple of dicts: name; estimator (a chain) or tracks; and if they differ from a run's defaults transforms, selector, average, loss,
            fork, greedy (see `rollout_jax`); claims: tasks on which its paper says it wins; needs: 'answer' where it reads what only tasks
            with an answer have; missing: why it cannot be run at all
  against   the row that claims are measured against
  seeds, updates, groups, width, learning_rate
  claims    text printed above the table
"""

import functools
import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlx import assemble, config, train_jax
from rlx.envs import probe_tasks
from rlx.learn import objective
from rlx.show import stats

KEYS = ('tasks', 'rows', 'against', 'seeds', 'updates', 'groups', 'width', 'learning_rate', 'claims')
ROW_KEYS = ('name', 'estimator', 'tracks', 'transforms', 'selector', 'average', 'loss', 'fork', 'greedy', 'claims', 'needs', 'missing')
ANSWERED = ('delayed_reward', 'fork')     # tasks whose prompts have an answer


def checked(table: Mapping[str, Any], path: str) -> dict[str, Any]:
  """The table, if it is one.

  Raises:
    ValueError: an unknown or missing key, a task that does not exist, two rows of one name; one sentence says which.
  """
  for key in table:
    if key not in KEYS:
      raise ValueError(f"'{path}' has the unknown key '{key}'; known are {', '.join(KEYS)}")
  for key in KEYS:
    if key not in table:
      raise ValueError(f"'{path}' lacks the key '{key}'")
  if unknown := set(table['tasks']) - set(probe_tasks.TASKS):
    raise ValueError(f"'{path}' names the task '{sorted(unknown)[0]}'; there are {', '.join(probe_tasks.TASKS)}")
  names = []
  for row in table['rows']:
    if unknown := set(row) - set(ROW_KEYS):
      raise ValueError(f"a row of '{path}' has the unknown key '{sorted(unknown)[0]}'; known are {', '.join(ROW_KEYS)}")
    if 'name' not in row or len({'estimator', 'tracks', 'missing'} & set(row)) != 1:
      raise ValueError(f"a row of '{path}' needs a name and one of estimator, tracks and missing; it has {sorted(row)}")
    if unknown := set(row.get('claims', ())) - set(table['tasks']):
      raise ValueError(f"row '{row['name']}' of '{path}' claims the task '{sorted(unknown)[0]}', which is none of the table's")
    names.append(row['name'])
  if len(set(names)) < len(names) or table['against'] not in names:
    raise ValueError(f"the rows of '{path}' must have different names, one of them '{table['against']}': {names}")
  return dict(table)


def program(row: Mapping[str, Any], table: Mapping[str, Any]):
  """A jitted function (tasks `[K]` i32, keys `[S]`, hypers) -> `[K, S, updates]`, and the hypers."""
  track = {k: row[k] for k in ('estimator', 'selector', 'average', 'loss') if k in row}
  tracks = assemble.tracks(row.get('tracks') or dict(main=dict(dict(loss=('ppo_clip',)), **track)))
  recipe = train_jax.Recipe(tracks, config.chain('transform', row.get('transforms', ())), row.get('fork', 0), row.get('greedy', False))
  one = lambda task, key, hypers: train_jax.train(probe_tasks.device(task), recipe, key, hypers=hypers, updates=table['updates'],
                                                  groups=table['groups'], width=table['width'], learning_rate=table['learning_rate'])
  seeds = jax.vmap(one, (None, 0, None))
  # tasks in turn: then one of them is computed, where `vmap` would compute all five and choose
  return jax.jit(lambda tasks, keys, hypers: jax.lax.map(lambda t: seeds(t, keys, hypers), tasks)), objective.floats(tracks, 0)


def run_row(row: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
  """{'areas': task -> one number a seed, 'compile_s', 'run_s'}, or {'missing': why}."""
  if 'missing' in row:
    return dict(missing=row['missing'])
  tasks = [t for t in table['tasks'] if row.get('needs') != 'answer' or t in ANSWERED]
  ids = jnp.asarray([probe_tasks.TASKS.index(t) for t in tasks], jnp.int32)
  keys = jax.random.split(jax.random.key(0), table['seeds'])       # the same for every row, so that rows can be paired
  began = time.monotonic()
  try:
    fn, hypers = program(row, table)
    compiled = fn.lower(ids, keys, hypers).compile()
    ready = time.monotonic()
    curves = np.asarray(compiled(ids, keys, hypers))
  except Exception as e:      # a method is foreign code
    return dict(missing=f"{type(e).__name__}: {(str(e).splitlines() or [''])[0][:200]}")
  if not np.isfinite(curves).all():
    return dict(missing='its curve is not finite')
  return dict(areas={t: c.mean(1).tolist() for t, c in zip(tasks, curves, strict=True)},
              last={t: float(c[:, -5:].mean()) for t, c in zip(tasks, curves, strict=True)},
              compile_s=ready - began, run_s=time.monotonic() - ready)


def run(table: Mapping[str, Any], workdir: str | os.PathLike, *, say=print) -> dict[str, dict]:
  """Runs the rows that are not done yet and rewrites workdir/table.md after each: name -> what `run_row` gave."""
  workdir, found = pathlib.Path(workdir), {}
  workdir.mkdir(parents=True, exist_ok=True)
  same = {k: table[k] for k in ('tasks', 'seeds', 'updates', 'groups', 'width', 'learning_rate')}
  for n, row in enumerate(table['rows'], 1):
    what = {k: v for k, v in row.items() if k not in ('name', 'claims')}
    mark = hashlib.sha256(json.dumps(config.plain([what, same]), sort_keys=True).encode()).hexdigest()[:8]
    file = workdir / f"{re.sub(r'[^a-z0-9]+', '_', row['name'].lower()).strip('_')}_{mark}.json"
    done = file.is_file()
    got = json.loads(file.read_text()) if done else run_row(row, table)
    if not done and 'missing' not in got:
      temp = file.with_suffix('.tmp')
      temp.write_text(json.dumps(got) + '\n')
      os.replace(temp, file)
    found[row['name']] = got
    took = 'done before' if done else f"{got.get('compile_s', 0.) + got.get('run_s', 0.):.0f} s"
    means = ' '.join(f'{np.mean(v):.3f}' for v in got.get('areas', {}).values())
    say(f"[{n}/{len(table['rows'])}] {row['name']}: {got.get('missing') or means} ({took})")
    (workdir / 'table.md').write_text(markdown(table, found))
    jax.clear_caches()
  return found


def markdown(table: Mapping[str, Any], found: Mapping[str, Mapping]) -> str:
  """The matrix, what became of the claims, and why some cells are n/a."""
  out = [table['claims'].strip(), ''] if table['claims'] else []
  out += ['| method | ' + ' | '.join(table['tasks']) + ' | compile s | run s |', '|---' * (len(table['tasks']) + 3) + '|']
  absent, claims, base = [], [], found.get(table['against'], {}).get('areas', {})
  for row in table['rows']:
    got = found.get(row['name'])
    if got is None:
      continue
    cells = []
    for task in table['tasks']:
      area = got.get('areas', {}).get(task)
      if area is None:
        cells.append('n/a')
        continue
      mean, low, _ = stats.t_interval(area)
      cells.append(f'{mean:.3f} ± {mean - low:.3f}' + (' *' if task in row.get('claims', ()) else ''))
      if task in row.get('claims', ()) and task in base:
        claims.append((row['name'], task, *stats.t_interval([a - b for a, b in zip(area, base[task], strict=True)])))
    if 'missing' in got:
      absent.append(f"{row['name']}: {got['missing']}")
    elif len(got['areas']) < len(table['tasks']):
      absent.append(f"{row['name']}: the other tasks have no answer to probe")
    seconds = [f"{got[k]:.0f}" if k in got else '-' for k in ('compile_s', 'run_s')]
    out.append('| ' + ' | '.join([row['name'].replace('|', '\\|'), *cells, *seconds]) + ' |')
  if claims:
    out += ['', f"Claimed to win (*), against {table['against']} over the same seeds:", '', '| method | task | difference | 95 % | |', '|---|---|---|---|---|']
    verdict = lambda low, high: 'won' if low > 0 else 'lost' if high < 0 else 'even'
    out += [f'| {name} | {task} | {mean:+.3f} | {low:+.3f} to {high:+.3f} | {verdict(low, high)} |' for name, task, mean, low, high in claims]
  if absent:
    out += ['', 'n/a:', *(f'- {line}' for line in absent)]
  return '\n'.join(out) + '\n'


def main(table: Mapping[str, Any], path: str, workdir: str | os.PathLike) -> None:
  """Runs the matrix and prints it."""
  table = checked(table, path)
  began = time.monotonic()
  say = functools.partial(print, flush=True)
  found = run(table, workdir, say=say)
  full = sum(len(got.get('areas', {})) == len(table['tasks']) for got in found.values())
  say(f'\n{markdown(table, found)}\n{full} methods have all {len(table["tasks"])} tasks; {(time.monotonic() - began) / 60:.1f} minutes\n{workdir}/table.md')
