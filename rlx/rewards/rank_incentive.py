"""Pays a rewritten query by where the right passage then ranks."""

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

from rlx.types import Episode

writes = ('reward/rank', 'judged/rank')


def rank_incentive(episode: Episode, *, search: Callable[[str, int], Sequence | Awaitable[Sequence]], gold: str = 'relevant',
                   tag: str = 'rewrite', pattern: str | None = '<think>.*?</think>\n<rewrite>.*?</rewrite>',
                   broken: float = -0.1, near: int = 10, far: int = 100) -> Awaitable[dict[str, list]]:
  """Rank-incentive reward shaping (ConvSearch-R1, arXiv:2505.15776).

    f(r) = 2 - (r - 1) / (near - 1)         1 <= r <= near
           1 - (r - near) / (far - near)    near < r <= far
           0                                not found among the first `far`

  r: the best rank of a right passage. A measure such as recall pays only the first places; this one tells a rank of 90 from
  one of 60, and lets the last step to the top pay most.

  Args:
    episode: the query is the text of the first <tag> of its last step.
    search: (query, number of passages) -> their ids, the best first; may be a coroutine.
    gold: where the task's data has the ids of the right passages; a text is one id.
    tag: of the query.
    pattern: the last step as a whole must match it (spaces around it aside; `.` matches line ends too), or it gets `broken`
      instead of f; None: not asked. The release lets further lines follow it.
    broken: what is paid out of form.
    near, far: 10 and 100 as released.

  Returns:
    A coroutine of {'rank': one float a step}, on the last step; 0 without a query.

  Raises:
    ValueError: the task has no right passages; not 1 < near < far.

  Source: BeastyZ/ConvSearch-R1@35370aec `verl/verl/utils/reward_score/rewrite_r1.py`: `cal_reward`, `format_reward`,
  `compute_score` (its form by stages of training is not used there); `src/retrieval/server.py::_get_gold_rank`.

  Proof: twin.
  """
  if not 1 < near < far:
    raise ValueError(f'near and far are ranks with 1 < near < far, not {near} and {far}.')
  data = episode.task.data
  right = data.get(gold) if isinstance(data, Mapping) else getattr(data, gold, None)
  if right is None:
    raise ValueError(f"rank_incentive needs tasks whose data has '{gold}'; task {episode.task.id} has none")
  right = [right] if isinstance(right, str) else right
  text = episode.nodes[-1].text
  query = re.search(f'<{re.escape(tag)}>(.*?)</{re.escape(tag)}>', text, re.DOTALL)
  form = pattern is None or re.fullmatch(pattern, text.strip(), re.DOTALL) is not None

  async def ranked():
    paid = 0. if form else broken
    if form and query:
      found = search(query[1], far)
      found = list(await found if inspect.isawaitable(found) else found)[:far]
      paid = shaped(min((found.index(i) + 1 for i in right if i in found), default=None), near, far)
    return {'rank': [0.] * (len(episode.nodes) - 1) + [paid]}
  return ranked()


rank_incentive.grain = 'episode'


def shaped(rank: int | None, near: int, far: int) -> float:
  """f of a rank; None: not found."""
  if rank is None or rank > far:
    return 0.
  return 2 - (rank - 1) / (near - 1) if rank <= near else 1 - (rank - near) / (far - near)
