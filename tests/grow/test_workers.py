"""Threads and the event loop."""

import asyncio
import threading
import time

import pytest

from rlx.grow import workers


@pytest.mark.parametrize('n', [0, 3])
def test_results_in_order(n):
  with workers.crew(n) as crew:
    assert crew(lambda x: (time.sleep(.01 * (3 - x)), x * x)[1], [0, 1, 2, 3]) == [0, 1, 4, 9]
    assert crew(lambda x: x, []) == []


def test_threads_work_side_by_side():
  """Two jobs that wait for each other: one thread alone would never come back."""
  meet = threading.Barrier(2, timeout=20)
  with workers.crew(2) as crew:
    assert sorted(crew(lambda _: meet.wait(), [0, 1])) == [0, 1]


def test_without_threads_everything_runs_here():
  with workers.crew(0) as crew:
    assert crew(lambda _: threading.current_thread() is threading.main_thread(), [0, 1]) == [True, True]


@pytest.mark.parametrize('n', [0, 2])
def test_errors_come_through(n):
  with workers.crew(n) as crew, pytest.raises(ZeroDivisionError):
    crew(lambda x: 1 // x, [1, 0, 2])


def test_coroutines_run_side_by_side_and_errors_wait_for_the_one_who_asks():
  async def slow(x):
    await asyncio.sleep(.2)
    return 10 // x
  began = time.monotonic()
  futures = [workers.later(slow(x)) for x in (1, 2, 0, 5)]
  assert [futures[i].result(timeout=20) for i in (0, 1, 3)] == [10, 5, 2]
  with pytest.raises(ZeroDivisionError):
    futures[2].result(timeout=20)
  assert time.monotonic() - began < .2 * 4
