"""Pays a query for being right, and for every way in which it comes near."""

import re
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from typing import Any

from rlx.envs import sql_sandbox
from rlx.types import Episode

writes = ('reward/partial', 'judged/partial')

PROMPT = """How well does a SQL query answer the task? The reference query is right.

Task:
{task}

Reference query:
{gold}

Query:
{query}

End with one line that holds a number from 0 (useless) to 1 (as good as the reference) and nothing else."""


def sql_partial(episode: Episode, *, judge: Callable[..., Awaitable[str | None]] | None = None,
                tags: Sequence[str] = ('sql', 'generate_sql'), pattern: str = r'<(\w+)>.*</\1>', links: str = 'names',
                execution: float = 3., judged: float = 2., schema: float = 1., bigrams: float = 1., syntax: float = 1.,
                form: float = 1., prompt: str = PROMPT, max_rows: int = 200, max_bytes: int = 16_384, vm_steps: int = 100_000,
                seconds: float = 5.) -> dict[str, list] | Awaitable[dict[str, list]]:
  """Rewards for parts of a query, tailored to SQL (Reasoning-SQL, arXiv:2503.23157).

    R = 3 [right] + 2 judge [not right] + J(schema) + J(bigrams) + [runs] + [form]
    J(P, G) = |P & G| / (|P | G| + 1e-4)   of the query's set and the gold query's

  Right: the gold query's rows, and not none at all. Bigrams: pairs of words between spaces, as they stand. The weights are those
  of a port whose list of rewards is the paper's; they are not checked against it.

  Args:
    episode: its task's data has `path`, a SQLite file that does not change, and `sql`, the gold query.
    judge: gives a number from 0 to 1; asked where there is a query that is not right. None: that term is 0.
    tags: a query is the text between <tag> and </tag> of one of these; the last in the last step that has one. Without a query all
      terms but the last are 0.
    pattern: every action must match it as a whole, spaces around them aside, for the last term.
    links: what the schema's set is: 'names', words that name a table or a column of the file; 'words', all of them (the port).
    execution, judged, schema, bigrams, syntax, form: the weights, in the order of the equation.
    prompt: with the fields {task} (the first observation), {gold} and {query}.
    max_rows, max_bytes, vm_steps, seconds: limits of a query, as `execute_sql` has them.

  Returns:
    {'partial': one float a step}, all of it on the last, or a coroutine of it where the judge is asked; None there if the judge
    gives no number from 0 to 1, or the wall-clock backstop fires.

  Raises:
    ValueError: `links` is neither, the task has no file and gold query, or the gold query does not run.

  Source: a public port of the paper's rewards.

  Proof: guess: the weights, and what counts as schema; the sum itself has a twin.
  """
  if links not in ('names', 'words'):
    raise ValueError(f"links is 'names' or 'words', not {links!r}.")
  path, gold = question(episode, 'sql_partial')
  limits = dict(max_rows=max_rows, max_bytes=max_bytes, vm_steps=vm_steps, seconds=seconds)
  shaped = all(re.fullmatch(pattern, n.text.strip(), re.DOTALL) for n in episode.nodes)
  on_last = lambda paid: {'partial': [0.] * (len(episode.nodes) - 1) + [paid]}
  tried = queries(episode, tags)
  if not tried:
    return on_last(form * shaped)
  query = tried[-1]
  right, got = sql_sandbox.agree(path, query, gold, **limits), sql_sandbox.execute(path, query, **limits)
  if right is None or got.ended_by == 'time':
    return on_last(None)
  right = right and bool(got.rows)
  known = names(path) if links == 'names' else None
  sets = [words(q) if known is None else words(q) & known for q in (query, gold)]
  near = schema * jaccard(*sets) + bigrams * jaccard(pairs(query), pairs(gold))
  paid = execution * right + near + syntax * (got.error is None) + form * shaped
  if right or judge is None:
    return on_last(paid)

  async def asked():
    verdict = score(await judge(prompt.format(task=episode.nodes[0].obs, gold=gold, query=query)))
    return on_last(None if verdict is None else paid + judged * verdict)
  return asked()


sql_partial.grain = 'episode'


def question(episode: Episode, who: str) -> tuple[str, str]:
  """(file, gold query) of an episode's task, for the reward `who`."""
  data: Any = episode.task.data
  if not (hasattr(data, 'path') and hasattr(data, 'sql')):
    raise ValueError(f'{who} needs tasks whose data has `path` and `sql`; task {episode.task.id} has {type(data).__name__}.')
  return data.path, data.sql


def queries(episode: Episode, tags: Sequence[str]) -> list[str]:
  """What stands in <tag> ... </tag> of one of the tags, in order."""
  pattern = re.compile(f'<({"|".join(map(re.escape, tags))})>(.*?)</\\1>', re.DOTALL)
  return [m[2].strip() for n in episode.nodes for m in pattern.finditer(n.text)]


def names(path: str) -> frozenset[str]:
  """The words in the names of a file's tables and columns, in lower case."""
  return frozenset().union(*(words(name) for t in sql_sandbox.schema(path) for name in (t.name, *t.columns)))


def words(sql: str) -> frozenset[str]:
  """Its words in lower case."""
  return frozenset(re.findall(r'\w+', sql.lower()))


def pairs(sql: str) -> frozenset[tuple[str, str]]:
  """Neighbours among what stands between spaces."""
  parts = sql.split()
  return frozenset(zip(parts, parts[1:], strict=False))


def jaccard(a: Iterable[Hashable], b: Iterable[Hashable]) -> float:
  """|a & b| / (|a | b| + 1e-4)."""
  a, b = frozenset(a), frozenset(b)
  return len(a & b) / (len(a | b) + 1e-4)


def score(text: str | None) -> float | None:
  """The number in the last line that holds nothing else; None where there is none, or it is not from 0 to 1."""
  found = re.findall(r'^[ \t*]*(\d{1,4}(?:\.\d{1,9})?|\.\d{1,9})[ \t*.]*$', text or '', re.MULTILINE)
  return float(found[-1]) if found and float(found[-1]) <= 1 else None
