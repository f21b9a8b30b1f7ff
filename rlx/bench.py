"""Benches: `python -m rlx.bench credit [--sizes 6400 64000] [--json PATH]` prints the machine and one table of medians.

A bench is a function in `BENCHES`; its keyword-only parameters are its flags; it returns a list of `Line`.
"""

import argparse
import inspect
import json
import os
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlx.grow import labels
from rlx.types import Batch, Node, Nodes, Tokens


class Line(NamedTuple):
  """One row of the table; `target` is the most that `value` may be."""
  name: str
  size: int
  value: float
  unit: str
  target: float | None = None

  @property
  def verdict(self) -> str:
    return '' if self.target is None else 'ok' if self.value <= self.target else 'missed'


def machine() -> dict:
  """What a figure depends on: processor, devices, versions, and how busy the machine was."""
  info = pathlib.Path('/proc/cpuinfo')
  model = re.search(r'model name\s*:\s*(.+)', info.read_text()) if info.exists() else None
  return dict(
      cpu=model[1] if model else platform.processor() or platform.machine(),
      cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
      device=f'{len(jax.devices())} x {jax.devices()[0].device_kind}', load=round(os.getloadavg()[0], 2),
      python=platform.python_version(), jax=jax.__version__, numpy=np.__version__)


def seconds(run: Callable, repeats: int, prepare: Callable = tuple) -> float:
  """Median wall time of `run(*prepare())`; what `prepare` does is not timed."""
  times = []
  for _ in range(repeats):
    args = prepare()
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    times.append(time.perf_counter() - start)
  return statistics.median(times)


def compiled(fn: Callable, *args) -> tuple[Callable, float, int]:
  """(executable, seconds to trace and compile, calls to the host in its HLO)."""
  start = time.perf_counter()
  run = jax.jit(fn).lower(*args).compile()
  took = time.perf_counter() - start
  host = r'custom_call_target="[^"]*callback|\b(?:outfeed|infeed|send|recv)\('
  return run, took, len(re.findall(host, run.as_text()))


# ---- credit: labels and step-level estimators ----------------------------------------------------------------------

WIDTH, TURNS, STATES, CHARS = 8, 50, 30, 400   # rollouts, steps of each, observations of a prompt, their characters


def _episodes(size):
  """Observations (bytes), group names, rollout names and final rewards of `size` steps, drawn once with seed 0."""
  if size % (WIDTH * TURNS):
    raise ValueError(f'bench credit takes sizes that are multiples of {WIDTH * TURNS} ({WIDTH} rollouts of {TURNS} '
                     f'steps), got {size}')
  rng = np.random.RandomState(0)
  obs, group, rollout, reward = [], [], [], []
  for _ in range(size // (WIDTH * TURNS)):
    name = rng.bytes(16).hex()
    states = [bytes(rng.randint(97, 123, CHARS, dtype=np.uint8)) for _ in range(STATES)]
    for _ in range(WIDTH):
      mine, at, score = rng.bytes(16).hex(), 0, 10. * (rng.rand() < .4)
      for t in range(TURNS):
        obs.append(states[at])
        group.append(name)
        rollout.append(mine)
        reward.append(score * (t == TURNS - 1))
        at = min(STATES - 1, at + rng.randint(0, 3)) if rng.rand() < .8 else rng.randint(STATES)
  return obs, group, rollout, np.array(reward, np.float32)


def _step(parent, obs):
  none = np.zeros(0, np.float32)
  return Node(parent, obs, [], False, '', [], none.astype(bool), none, {})


def floor(group: Sequence[str], rollout: Sequence[str], obs: Sequence[str]) -> np.ndarray:
  """The plain program on string columns: number the groups, the rollouts, and the observations of each group."""
  def number(keys):
    ids = {}
    return np.fromiter((ids.setdefault(k, len(ids)) for k in keys), np.int64, len(obs))
  groups = number(group)
  number(rollout)
  return number(zip(groups.tolist(), obs))


def _label(nodes):
  return labels.intern([labels.exact(n) for n in nodes])


def _batch(state, reward):
  n = len(state)
  at = np.arange(n, dtype=np.int32)
  nodes = Nodes(
      parent=jnp.asarray(np.where(at % TURNS, at - 1, -1)), group=jnp.asarray(at // (WIDTH * TURNS)),
      valid=jnp.ones(n, bool),
      end=jnp.asarray((at % TURNS == TURNS - 1).astype(np.int32)), reward=dict(task=jnp.asarray(reward)),
      label=dict(state=jnp.asarray(state)))
  none, no = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), bool)   # the estimators timed here read no token
  tokens = Tokens(ids=none, node=none - 1, segment=none - 1, position=none, sampled=no, mask=no, logp=jnp.zeros((1, 1)))
  return Batch(nodes=nodes, tokens=tokens)


def credit(*, sizes: Sequence[int] = (6400, 64000), repeats: int = 21) -> list[Line]:
  """Strings to integers against a plain numpy program, then jitted GiGPO and HGPO.

  `size` steps are prompts of 8 rollouts of 50 turns with 400-character observations, every one a string object of its own,
  made anew for each run: Python keeps a string's hash, so a second run on the same objects would look faster than it is.

  Args:
    sizes: steps in a batch.
    repeats: runs behind each median.
  """
  from rlx.estimators.gigpo import gigpo
  from rlx.estimators.hgpo import hgpo

  lines = []
  for size in sizes:
    raw, group, rollout, reward = _episodes(size)
    parents = [-1 if i % TURNS == 0 else i % (WIDTH * TURNS) - 1 for i in range(size)]

    def strings():
      return group, rollout, [r.decode() for r in raw]

    def steps():
      flat = [_step(p, r.decode()) for p, r in zip(parents, raw)]
      return [flat[a:a + WIDTH * TURNS] for a in range(0, size, WIDTH * TURNS)],   # the arguments of `_label`

    plain, ours = seconds(floor, repeats, strings), seconds(_label, repeats, steps)
    lines += [Line('labels, plain numpy', size, 1e3 * plain, 'ms'), Line('labels', size, 1e3 * ours, 'ms'),
              Line('labels / plain numpy', size, ours / plain, 'x', 1.5)]
    batch = _batch(_label(*steps()), reward)
    for estimator in (gigpo, hgpo):
      run, took, calls = compiled(estimator, batch)
      name, median = estimator.__name__, seconds(run, repeats, lambda: (batch,))
      lines += [Line(f'{name}, compile', size, 1e3 * took, 'ms'),
                Line(f'{name}, run', size, 1e3 * median, 'ms', 15. * max(size, 6400) / 6400),
                Line(f'{name}, host calls', size, calls, '', 0)]
  return lines


# ---- the command ---------------------------------------------------------------------------------------------------

BENCHES = dict(credit=credit)


def table(lines: Sequence[Line]) -> str:
  """The lines under a header, in columns."""
  cells = [('bench', 'size', 'median', '', 'at most', '')]
  for x in lines:
    most = '' if x.target is None else f'{x.target:.4g}'
    cells.append((x.name, str(x.size), f'{x.value:.4g}', x.unit, most, x.verdict))
  sides = '<', '>', '>', '<', '>', '<'
  wide = [max(map(len, column)) for column in zip(*cells)]
  return '\n'.join('  '.join(f'{c:{side}{w}}' for c, side, w in zip(row, sides, wide)).rstrip() for row in cells)


def parser() -> argparse.ArgumentParser:
  """A subcommand for each bench, a flag for each of its parameters."""
  top = argparse.ArgumentParser(prog='python -m rlx.bench', description='Times one part of rlx and prints a table of medians.')
  commands = top.add_subparsers(dest='bench', required=True, metavar='bench')
  for name, bench in BENCHES.items():
    one = commands.add_parser(name, help=bench.__doc__.splitlines()[0])
    one.add_argument('--json', metavar='PATH', help='write the machine and the lines there too')
    for key, p in inspect.signature(bench).parameters.items():
      many = isinstance(p.default, tuple)
      kind = type(p.default[0] if many else p.default)
      one.add_argument(f'--{key}', default=p.default, type=kind, nargs='+' if many else None, help=f'default: {p.default}')
  return top


def main(argv: Sequence[str] | None = None) -> list[Line]:
  """Runs one bench, prints the table and returns its lines; a value that a bench refuses ends the command in one sentence."""
  top = parser()
  args = vars(top.parse_args(argv))
  bench, path = BENCHES[args.pop('bench')], args.pop('json')
  on = machine()
  try:
    lines = bench(**args)
  except ValueError as e:
    top.error(str(e))
  print(', '.join(f'{k} {v}' for k, v in on.items()))
  print(table(lines))
  if path:
    pathlib.Path(path).write_text(json.dumps(dict(machine=on, lines=[x._asdict() for x in lines]), indent=1) + '\n')
  return lines


if __name__ == '__main__':
  main()
