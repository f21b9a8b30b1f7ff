"""Pays a query that was found by trying others in between."""

import re
from collections.abc import Sequence

from rlx.envs import sql_sandbox
from rlx.rewards.sql_partial import queries, question
from rlx.types import Episode

writes = ('reward/reex', 'judged/reex')


def reex_sql(episode: Episode, *, tags: Sequence[str] = ('sql', 'generate_sql'),
             intermediate: Sequence[str] | None = ('intermediate_sql',), calls: int = 10, pattern: str = r'<(\w+)>.*</\1>',
             form: float = 2., execution: float = 3., exact: float = 1., entities: float = 1., exploration: float = 2.,
             max_rows: int = 200, max_bytes: int = 16_384, vm_steps: int = 100_000, seconds: float = 5.) -> dict[str, list]:
  """The composite reward of execution-aware text-to-SQL (ReEx-SQL, arXiv:2505.12768).

    R = 2 [form] + 3 [right] + [same text] + [same entities] + 2 useful / tried

  The weights are the paper's; that the terms add up is ours, and so is what they are. Same text: up to case and spaces outside
  of quotes, and a semicolon. Entities: the tables and columns that SQLite reads. Useful: a query in between that gives rows, from
  a table the gold query reads too, and is not one that was tried before.

  Args:
    episode: its task's data has `path`, a SQLite file that does not change, and `sql`, the gold query.
    tags: of the answer: the last query in one of them.
    intermediate: of queries in between; None: those of `tags` before the last.
    calls: so many queries in between count, the first ones.
    pattern: every action must match it as a whole, spaces around them aside, for the first term.
    form, execution, exact, entities, exploration: the weights, in the order of the equation.
    max_rows, max_bytes, vm_steps, seconds: limits of a query, as `execute_sql` has them.

  Returns:
    {'reex': one float a step}, all of it on the last; None there if the wall-clock backstop fires.

  Raises:
    ValueError: the task has no file and gold query, or the gold query does not run.

  Source: a public reading note of the paper.

  Proof: guess: every term but the execution, and that they add up.
  """
  path, gold = question(episode, 'reex_sql')
  limits = dict(max_rows=max_rows, max_bytes=max_bytes, vm_steps=vm_steps, seconds=seconds)
  answers, useful = queries(episode, tags), 0
  between = (answers[:-1] if intermediate is None else queries(episode, intermediate))[:calls]
  results = [sql_sandbox.execute(path, q, **limits) for q in (*between, *answers[-1:])]
  right = sql_sandbox.agree(path, answers[-1], gold, **limits) if answers else False
  on_last = lambda paid: {'reex': [0.] * (len(episode.nodes) - 1) + [paid]}
  if right is None or any(r.ended_by == 'time' for r in results):
    return on_last(None)
  wanted = _entities(path, gold)
  for i, q in enumerate(between):      # only what has run is read again: SQLite's limits have been kept
    new = normal(q) not in map(normal, between[:i])
    useful += bool(results[i].rows) and new and any(t in dict(wanted) for t, _ in _entities(path, q))
  paid = form * all(re.fullmatch(pattern, n.text.strip(), re.DOTALL) for n in episode.nodes) + execution * right
  if answers:
    paid += exact * (normal(answers[-1]) == normal(gold))
    paid += entities * (results[-1].error is None and _entities(path, answers[-1]) == wanted)
  return on_last(paid + exploration * useful / max(len(between), 1))


reex_sql.grain = 'episode'


def _entities(path, sql):
  """(table, '') and (table, column) of all that SQLite reads."""
  return {(t.lower(), c.lower()) for t, *columns in sql_sandbox.reads(path, sql) for c in ('', *columns)}


def normal(sql: str) -> str:
  """The query without its semicolon; outside of quotes in lower case, with one space where there are several."""
  parts = re.split(r"('[^']*')", sql.strip().rstrip(';'))
  return ''.join(p if i % 2 else re.sub(r'\s+', ' ', p.lower()) for i, p in enumerate(parts)).strip()
