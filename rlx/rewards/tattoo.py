"""Pays steps of reasoning about a table by a judge that may look things up in it before it decides."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from rlx.envs import sql_sandbox
from rlx.rewards._asking import attempt, verdict
from rlx.types import Episode

writes = ('reward/tattoo', 'judged/tattoo')

TOOL = """A question about tables, the steps taken so far and one more step are given. Does that step rest on what the \
tables hold? Then write one query that checks it, as <sql> ... </sql>. If it only reasons about what is known, write 'No query'.

Tables:
{tables}

Question:
{task}

Steps so far:
{before}

The step to check:
{step}"""
DECIDE = """A question about tables, the steps taken so far and one more step are given. Is that step right?

Tables:
{tables}

Question:
{task}

Steps so far:
{before}

The step to judge:
{step}
{found}
Reason first, then end with one line that says 'Verdict: right' or 'Verdict: wrong'."""


def tattoo(episode: Episode, *, judge: Callable[..., Awaitable[str | None]], ungrounded: float = 0.5, tool: str = TOOL,
           decide: str = DECIDE, max_rows: int = 200, max_bytes: int = 16_384, vm_steps: int = 100_000,
           seconds: float = 5.) -> Awaitable[dict[str, list]]:
  """Verdicts grounded in a tool (TaTToo, arXiv:2510.06217).

    x_j = [right] g_j,   g_j = 1 where a query ran or none was needed, `ungrounded` where one was wanted and did not run

  The judge is first asked for a query that checks step j, the query runs on the task's own tables, and the judge decides
  with its result before it. That verdicts are grounded in a tool is the paper's; its
  judge is a trained model whose own reward is shaped by how it uses tools. Here any judge will do: the two questions, the
  query as the tool, and g are ours.

  Args:
    episode: its task's data has `path`, a SQLite file that does not change.
    judge: answers both questions.
    ungrounded: weight of a verdict that a failed query was to ground.
    tool: first prompt, with the fields {tables}, {task} (the first observation), {before} and {step}.
    decide: second prompt, with {found} beside them: the query and what it gave, or nothing.
    max_rows, max_bytes, vm_steps, seconds: limits of a query, as in reward `execute_sql`.

  Returns:
    A coroutine of {'tattoo': one float a step}; None where either answer is missing, the verdict cannot be read, or the
    query was given up for its time.

  Raises:
    ValueError: the task has no file.

  Proof: guess: everything but the order of tool and verdict.
  """
  data = episode.task.data
  if not hasattr(data, 'path'):
    raise ValueError(f'tattoo needs tasks whose data has `path`; task {episode.task.id} has {type(data).__name__}')
  limits = dict(max_rows=max_rows, max_bytes=max_bytes, vm_steps=vm_steps, seconds=seconds)
  tables = '\n'.join(f'{t.name} ({", ".join(t.columns)})' for t in sql_sandbox.schema(data.path))

  async def one(j):
    nodes, before = episode.nodes, attempt(episode, j) or '(none)'
    fields = dict(tables=tables, task=nodes[0].obs, before=before, step=nodes[j].text.strip())
    said = await judge(tool.format(**fields))
    if said is None:
      return None
    queries, found, weight = re.findall(r'<sql>(.*?)</sql>', said, re.DOTALL | re.IGNORECASE), '', 1.
    if queries:
      result = sql_sandbox.execute(data.path, queries[-1].strip(), **limits)
      if result.ended_by == 'time':      # the same query may run another time
        return None
      weight = 1. if result.error is None else ungrounded
      gave = '\n'.join(map(str, result.rows)) or 'no rows' if result.error is None else f'error: {result.error}'
      found = f'\nA query that checks it:\n{queries[-1].strip()}\nIt gave:\n{gave}\n'
    right = verdict(await judge(decide.format(found=found, **fields)))
    return None if right is None else weight * right

  async def steps():
    return {'tattoo': list(await asyncio.gather(*map(one, range(len(episode.nodes)))))}
  return steps()


tattoo.grain = 'episode'
