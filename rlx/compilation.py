"""The process a run lives in: JAX's persistent compilation cache, what it saved, and memory that is kept."""

import ctypes
import os
import platform

import jax

_seconds = dict(spent=0., saved=0.)
_programs: dict[str, int] = {}
_listening = []


def cache_folder() -> str:
  """`$XDG_CACHE_HOME/rlx`, by default ~/.cache/rlx."""
  return os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'rlx')


def cache(on: bool = True) -> None:
  """Keeps every compiled program on disk, and counts programs, seconds spent compiling and seconds saved by the cache."""
  if not _listening:
    jax.monitoring.register_event_duration_secs_listener(_listen)
    _listening.append(True)
  if on and not jax.config.jax_compilation_cache_dir:
    folder = os.path.join(cache_folder(), 'xla')
    os.makedirs(folder, exist_ok=True)
    jax.config.update('jax_compilation_cache_dir', folder)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.1)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', 0)


def _listen(event, seconds, fun_name='', **_):
  if event.endswith('backend_compile_duration'):
    _seconds['spent'] += seconds
    _programs[fun_name] = _programs.get(fun_name, 0) + 1
  elif event.endswith('compile_time_saved_sec'):
    _seconds['saved'] += max(seconds, 0.)


def seconds() -> dict[str, float]:
  """Seconds of this process spent compiling, and saved by programs found in the cache."""
  return dict(_seconds)


def programs() -> dict[str, int]:
  """How many programs this process has compiled (or found in the cache) of each function, as 'jit(decode)'."""
  return dict(_programs)


M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_memory() -> None:
  """Lets glibc keep freed memory. Call it before the first computation; elsewhere it does nothing.

  XLA's CPU backend asks for its temporary buffers anew in every call; glibc gives large ones back to the system each time, and
  the page faults that follow cost a quarter of a small update.
  """
  if platform.libc_ver()[0] == 'glibc':
    mallopt = ctypes.CDLL(None).mallopt
    for option, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
      mallopt(option, value)
