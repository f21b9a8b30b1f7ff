"""Threads: for environments that wait, and one event loop for rewards that are coroutines."""

import asyncio
import concurrent.futures
import contextlib
import functools
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence


@contextlib.contextmanager
def crew(n: int) -> Iterator[Callable[[Callable, Sequence], list]]:
  """`map(fn, jobs) -> results in order`, on n threads; with n = 0 in this one."""
  if not n:
    yield lambda fn, jobs: [fn(j) for j in jobs]
    return
  with concurrent.futures.ThreadPoolExecutor(n, thread_name_prefix='rlx-env') as pool:
    yield lambda fn, jobs: list(pool.map(fn, jobs))


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
  loop = asyncio.new_event_loop()
  threading.Thread(target=loop.run_forever, name='rlx-async', daemon=True).start()
  return loop


def later(work: Awaitable) -> concurrent.futures.Future:
  """Starts a coroutine on the event loop's thread; `.result()` waits for it."""
  async def run():
    return await work
  return asyncio.run_coroutine_threadsafe(run(), _loop())
