"""Protocol `single`: the prompt holds the schema and the question, one action gives the query.

  singer(Singer_ID INTEGER key, Name TEXT, Country TEXT)
  concert(concert_ID INTEGER key, Singer_ID INTEGER)
  concert.Singer_ID = singer.Singer_ID

  Question: How many singers are from France?
  ```sql
  SELECT COUNT(*) FROM singer WHERE Country = 'France'
  ```

Rules as in `_sql_spider`.
"""

import random

from rlx.envs import _sql_layout, _sql_spider
from rlx.envs.sql_data import Question

MIX = (('careful', 0.5), ('skip', 0.25), ('sloppy', 0.25))
CHANNELS = ('task',)
LABELS = ('state', 'action', 'next')
INSTRUCTION = 'Write one SQLite query that answers the question about this database. Answer with the query alone, in a ```sql block.'

unfinished = _sql_spider.unfinished


def prompt(env, q: Question) -> str:
  """What an episode begins with: the schema and the question."""
  said = INSTRUCTION if env.instruction is None else env.instruction
  schema = _sql_layout.described(_sql_layout.tables(env.path, q))
  return f'{said}\n\n{schema}\n\nQuestion: {q.text}'.lstrip()


def step(env, state, text):
  """The answer, which ends the episode: (state, nothing, its act or None where it holds no query, end, reward, metrics)."""
  sql = _sql_spider.query(text)
  if sql is None:
    return state, '', None, 1, unfinished(env, state), {}
  return (state._replace(sql=sql), '', 'sql', *_sql_spider.judged(env, state.question, sql))


def labels(state, act) -> dict:
  """None of its own."""
  del state, act
  return {}


def expert(q: Question, kind: str, rng: random.Random):
  """Yields one action. careful: the gold query. skip: guesses names. sloppy: slips."""
  said = dict(careful=lambda: q.sql, skip=lambda: _sql_spider.guessed(q), sloppy=lambda: _sql_spider.slipped(q, rng))[kind]()
  yield f'```sql\n{said}\n```'
