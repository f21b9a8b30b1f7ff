"""The trained model as its own judge."""

import asyncio
import concurrent.futures
import queue
from collections.abc import Callable


def policy(*, limit: int = 64, temperature: float = 0.) -> Callable:
  """Asks the policy with the parameters of this step; it answers once the prompts of the step have been grown.

  A chat model is asked as a user would. A prompt that does not fit a slot has no answer. The loop answers what stands in `judge.asked`.

  Args:
    limit: ids of an answer.
    temperature: of its sampling; 0: the likeliest.
  """
  async def judge(prompt: str, *, sample: int = 0) -> str | None:
    answer = concurrent.futures.Future()
    judge.asked.put((prompt, sample, answer))
    return await asyncio.wrap_future(answer)
  judge.asked, judge.limit, judge.temperature = queue.SimpleQueue(), limit, temperature
  return judge
