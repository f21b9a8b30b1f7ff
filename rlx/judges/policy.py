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
    if not judge.served:
      raise RuntimeError("the judge 'policy' must be the keyword `judge` of a reward of the run itself; nothing would ever answer it here")
    answer = concurrent.futures.Future()
    judge.asked.put((prompt, sample, answer))
    return await asyncio.wrap_future(answer)
  judge.asked, judge.limit, judge.temperature, judge.served = queue.SimpleQueue(), limit, temperature, False
  return judge
