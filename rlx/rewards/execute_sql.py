"""Runs an episode's last query once more and compares it with the gold one."""

import re

from rlx.envs import sql_sandbox
from rlx.types import Episode

writes = ('reward/execution',)


def execute_sql(episode: Episode, *, tags: tuple = ('sql', 'generate_sql'), right: float = 1., runs: float = 0.,
                wrong: float = 0., max_rows: int = 200, max_bytes: int = 16_384, vm_steps: int = 100_000,
                seconds: float = 5.) -> dict[str, list]:
  """Pays the last query of an episode on its last step, whether it was confirmed or not.

  Right: the same rows as the gold query (as a list if that one orders them, as a multiset elsewhere).

  Args:
    episode: its task's data has `path`, a SQLite file that does not change, and `sql`, the gold query.
    tags: a query is the text between <tag> and </tag> of one of these; the last in the last step that has one.
    right: reward of a right query.
    runs: reward of one that runs and is wrong (TRUST-SQL: 0.2).
    wrong: reward of one that does not run, and of an episode without a query.
    max_rows: longest result that is not an error (on Spider give this and the next two as `sql` has them).
    max_bytes: likewise, its size.
    vm_steps: limit of work, in steps of SQLite's virtual machine.
    seconds: wall-clock backstop; where it fires there is no verdict (None).

  Returns:
    {'execution': one float a step}.

  Raises:
    ValueError: the task has no file and gold query, or the gold query does not run.

  Proof: twin.
  """
  data = episode.task.data
  if not (hasattr(data, 'path') and hasattr(data, 'sql')):
    found = type(data).__name__
    raise ValueError(f'execute_sql needs tasks whose data has `path` and `sql`; task {episode.task.id} has {found}')
  limits = dict(max_rows=max_rows, max_bytes=max_bytes, vm_steps=vm_steps, seconds=seconds)
  pattern = re.compile(f'<({"|".join(map(re.escape, tags))})>(.*?)</\\1>', re.DOTALL)
  queries = [m[2].strip() for n in episode.nodes for m in pattern.finditer(n.text)]
  paid = wrong
  if queries:
    verdict = sql_sandbox.agree(data.path, queries[-1], data.sql, **limits)
    if verdict is None:
      paid = None
    elif verdict:
      paid = right
    elif sql_sandbox.execute(data.path, queries[-1], **limits).error is None:
      paid = runs
  return {'execution': [0.] * (len(episode.nodes) - 1) + [paid]}


execute_sql.grain = 'episode'
