"""A side of a comparison: a process that gets ready, then does one repetition for every line it reads.

`python SCRIPT JOB.json`, where SCRIPT calls `serve(build)`. Answers are lines of JSON; whatever libraries print goes to stderr.

  -> (nothing)      <- {"ready": ..., "versions": {...}, "start_s": ..., "note": ...}, or {"error": "..."} and the end
  -> run            <- {"seconds": ..., "cpu_s": ..., "peak_mb": ..., "life_mb": ..., "device_mb": ...}
  -> logp           <- {"logp": [[...]], "entropy": [[...]]}
  -> quit

Standard library only: scripts of other trainers, which run in environments without rlx, import this file from their own folder.
"""

import ctypes
import json
import os
import platform
import resource
import sys
import time

STATUS = '/proc/self/status'


def serve(build):
  """Builds a side from the job and obeys.

  Args:
    build: `(job) -> (loop, info, logp, device_mb)`. `loop(turn)` repeats the work for ever and calls `turn()` after each
      repetition; the first `info['warm']` (1 by default) of them are warm-ups. `logp()` gives (log-probabilities, entropies), or
      is None. `device_mb()` is the most memory held on an accelerator so far, None where there is none.
  """
  began = time.perf_counter()
  out = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)

  def say(**what):
    print(json.dumps(what), file=out, flush=True)

  with open(sys.argv[1], encoding='utf-8') as f:
    job = json.load(f)
  try:
    loop, info, logp, device_mb = build(job)
    loop(_turns(say, info, logp, device_mb, began))
  except ImportError as e:
    say(error=f"{sys.executable} cannot import '{e.name}' ({e})")
  except Exception as e:   # of a foreign library, whatever it is: the other process has to hear of it
    say(error=f'{type(e).__name__}: {e}'.splitlines()[0])
    raise
  os._exit(1)


def repeated(run):
  """A loop that only repeats `run()`."""
  def loop(turn):
    while True:
      run()
      turn()
  return loop


def _turns(say, info, logp, device_mb, began):
  """`turn()`: a repetition is over; returns when the next one is asked for."""
  state = dict(warm=info.pop('warm', 1), start=None, life=0.)

  def turn():
    now, cpu = time.perf_counter(), _cpu()
    if state['start'] is not None:
      peak = peak_mb()
      state['life'] = max(state['life'], peak)
      say(seconds=now - state['start'], cpu_s=cpu - state['cpu'], peak_mb=peak, life_mb=state['life'],
          device_mb=device_mb())
    else:
      state['warm'] -= 1
      if state['warm'] > 0:
        return
      state['life'] = peak_mb()
      _reset_peak()
      say(ready=True, start_s=now - began, **info)
    while (line := sys.stdin.readline().strip()) == 'logp':
      values, entropy = logp()
      say(logp=values, entropy=entropy)
    if line != 'run':
      os._exit(0)
    state['start'], state['cpu'] = time.perf_counter(), _cpu()
  return turn


def _cpu():
  """CPU seconds of this process and of the children it has waited for."""
  used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
  return sum(u.ru_utime + u.ru_stime for u in used)


def peak_mb():
  """The most memory this process has held at once since the last reset, in MiB."""
  if os.path.exists(STATUS):
    with open(STATUS, encoding='utf-8') as f:
      for line in f:
        if line.startswith('VmHWM'):
          return int(line.split()[1]) / 1024
  size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return size / (2 ** 20 if sys.platform == 'darwin' else 1024)


def _reset_peak():
  """Peaks count from here, after what start and compilation have freed is handed back; from the start where that cannot be done."""
  if platform.libc_ver()[0] == 'glibc':
    ctypes.CDLL(None).malloc_trim(0)
  try:
    with open('/proc/self/clear_refs', 'w', encoding='utf-8') as f:
      f.write('5')
  except OSError:
    pass


def jax_mb(jax):
  """`device_mb` of a jax program, whose module it is given."""
  def device_mb():
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats['peak_bytes_in_use'] / 2 ** 20 if 'peak_bytes_in_use' in stats else None
  return device_mb


def packages(*names):
  """Versions of installed packages."""
  from importlib import metadata
  return {name: metadata.version(name) for name in names}


def pay(text):
  """The reward of a text: cheap, the same everywhere, hardly ever equal for two texts."""
  return sum(map(ord, text)) % 97 / 97
