"""Two processes do the same work in turn: ours, theirs, ours, theirs ... Their ratio is what is left when the machine is not quiet."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

FOLDER = pathlib.Path(__file__).parent
PEERS = {name: FOLDER / f'peer_{name}.py' for name in ('trl', 'tunix', 'transformers')}
BUSY = 0.1      # share of the cores other processes may use in a repetition that counts


class Side(NamedTuple):
  """A process to be: its name, the command before the job's path, and the job."""
  name: str
  command: tuple[str, ...]
  job: Mapping


class Process(NamedTuple):
  """A process that is ready, and what it said of itself."""
  side: Side
  handle: subprocess.Popen
  log: str
  info: dict


class Run(NamedTuple):
  """One repetition."""
  seconds: float
  peak_mb: float      # since it was ready
  life_mb: float      # since it was started
  device_mb: float | None     # on an accelerator
  others: float       # share of the cores that other processes used meanwhile


class Result(NamedTuple):
  """A side of a comparison. Ratios are of the peer's time to ours."""
  name: str
  seconds: float
  peak_mb: float
  life_mb: float
  device_mb: float | None
  others: float
  ratio: float | None         # median of the ratios of each pair
  ratio_medians: float | None
  runs: list[Run]
  info: dict


def ours(job: Mapping) -> Side:
  """rlx itself, in a process of its own."""
  return Side('rlx', (sys.executable, '-m', 'rlx.bench.ours'), job)


def peer(name: str, python: str, job: Mapping) -> Side:
  """Another trainer, run by the Python it is installed for.

  Raises:
    ValueError: no such Python.
  """
  found = shutil.which(os.path.expanduser(python))
  if found is None:
    raise ValueError(f"--peer-python '{python}' is no program: give the Python that {name} is installed for, "
                     f'such as venv/{name}/bin/python.')
  return Side(name, (found, str(PEERS[name])), job)


# ---- a process -------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def started(side: Side, tell: Callable) -> Iterator[Process]:
  """The process, ready and warm; it is gone at the end, whatever happens."""
  with tempfile.TemporaryDirectory(prefix='rlx-bench-') as folder:
    job, log = os.path.join(folder, 'job.json'), os.path.join(folder, 'log')
    with open(job, 'w', encoding='utf-8') as f:
      json.dump(side.job, f)
    with open(log, 'wb') as err:
      handle = subprocess.Popen([*side.command, job], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err, text=True,
                                env=_environment(side), cwd=folder)
    try:
      process = Process(side, handle, log, {})
      process.info.update(answer(process))
      tell(f"{side.name}: ready after {process.info['start_s']:.0f} s")
      yield process
    finally:
      handle.kill()
      handle.wait()
      with contextlib.suppress(BrokenPipeError):
        handle.stdin.close()
      handle.stdout.close()


def _environment(side):
  """Ours finds this rlx wherever it was started; a peer sees nothing of it, no hub, and no progress bars."""
  env = dict(os.environ, HF_HUB_OFFLINE='1', TQDM_DISABLE='1', TOKENIZERS_PARALLELISM='false', TRANSFORMERS_VERBOSITY='error')
  env.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')      # two sides share an accelerator
  for name in ('PYTHONPATH', 'PYTHONSAFEPATH'):      # a peer's script imports its neighbours
    env.pop(name, None)
  if side.name == 'rlx':
    env['PYTHONPATH'] = os.pathsep.join([str(FOLDER.parent.parent), *filter(None, [os.environ.get('PYTHONPATH')])])
  return env


def ask(process: Process, line: str) -> dict:
  """Sends a line and returns the answer."""
  with contextlib.suppress(BrokenPipeError):      # it has died: the answer says so
    process.handle.stdin.write(line + '\n')
    process.handle.stdin.flush()
  return answer(process)


def answer(process: Process) -> dict:
  """The next answer.

  Raises:
    ValueError: the process refused, or died.
  """
  name, line = process.side.name, process.handle.stdout.readline()
  if line:
    said = json.loads(line)
    if 'error' in said:
      raise ValueError(f"{name}: {said['error']}")
    return said
  code = process.handle.wait()
  if code == -signal.SIGKILL:
    raise ValueError(f'{name} was killed (signal 9), most likely for want of memory: try --exclusive, which never holds two sides '
                     'at once, or fewer rows a microbatch.')
  with open(process.log, encoding='utf-8', errors='replace') as f:
    last = [x.strip() for x in f if x.strip()][-1:]
  raise ValueError(f"{name} died ({f'signal {-code}' if code < 0 else f'exit {code}'}){': ' + last[0] if last else ''}")


# ---- repetitions -------------------------------------------------------------------------------------------------------

def once(process: Process) -> Run:
  """One repetition, and how busy others were meanwhile."""
  busy, began = _busy(), time.perf_counter()
  said = ask(process, 'run')
  busy, took = _busy() - busy, time.perf_counter() - began
  others = max(0., busy - said['cpu_s']) / took / os.cpu_count()
  return Run(said['seconds'], said['peak_mb'], said['life_mb'], said['device_mb'], others)


def _busy():
  """CPU seconds used on this machine, by anybody; nan where the system does not say."""
  path = pathlib.Path('/proc/stat')
  if not path.exists():
    return float('nan')
  user, nice, system, _, _, irq, softirq, steal = map(int, path.read_text().split('\n', 1)[0].split()[1:9])
  return (user + nice + system + irq + softirq + steal) / os.sysconf('SC_CLK_TCK')


def alternate(sides: Sequence[Side], *, repeats: int, exclusive: bool = False, tell: Callable = lambda text: None) -> tuple[list, dict]:
  """Rounds in which every side does one repetition, in this order.

  A round in which others used more than `BUSY` of the machine is repeated, up to `repeats` more rounds in all.

  Args:
    sides: who takes part.
    repeats: rounds that count.
    exclusive: a side is started anew for each repetition and is gone before the next one is: never two in memory.
    tell: is told what goes on.

  Returns:
    (rounds, a list of a `Run` a side; name -> what the side said of itself, with its 'logp' and 'entropy' where it scores).
  """
  infos, rounds = {}, []
  scores = len(sides) > 1 and all(s.job['work'] == 'score' for s in sides)

  def scored(process):
    if scores:
      process.info.update(ask(process, 'logp'))
    return process.info

  with contextlib.ExitStack() as stack:
    processes = [] if exclusive else [stack.enter_context(started(s, tell)) for s in sides]
    while len(rounds) < 2 * repeats and sum(map(_quiet, rounds)) < repeats:
      if exclusive:
        runs = []
        for s in sides:
          with started(s, tell) as process:
            runs.append(once(process))
            if s.name not in infos:
              infos[s.name] = scored(process)
      else:
        runs = [once(p) for p in processes]
      rounds.append(runs)
      told = ', '.join(f'{s.name} {r.seconds:.3f} s' for s, r in zip(sides, runs, strict=True))
      tell(told if _quiet(runs) else f'{told} (others used {max(r.others for r in runs):.0%} of the machine)')
    for p in processes:
      infos[p.side.name] = scored(p)
  return rounds, infos


def _quiet(runs):
  return not max(r.others for r in runs) > BUSY      # nan is not known: it counts


def results(sides: Sequence[Side], rounds: Sequence[Sequence[Run]], infos: Mapping[str, dict], repeats: int) -> list[Result]:
  """Medians over the `repeats` quietest rounds; the first side is what the others are compared with."""
  kept = sorted(rounds, key=lambda runs: max(r.others for r in runs))[:repeats]
  out, first = [], [r[0].seconds for r in kept]
  for i, side in enumerate(sides):
    mine = [r[i] for r in kept]
    median = statistics.median(r.seconds for r in mine)
    out.append(Result(
        side.name, median, max(r.peak_mb for r in mine), max(r.life_mb for r in mine), mine[-1].device_mb,
        max(r.others for r in mine),
        statistics.median(r.seconds / f for r, f in zip(mine, first, strict=True)) if i else None,
        median / statistics.median(first) if i else None, [r[i] for r in rounds], infos[side.name]))
  return out
