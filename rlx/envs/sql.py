"""Multi-turn text-to-SQL over schemas that must be explored first, on real SQLite files.

`world='hidden_names'`: many small databases made by a seeded script, three tags; learned from scratch in two minutes
(`configs/quickstart.py`). `world='four_acts'`: the protocol of TRUST-SQL on made databases of eight domains
(`configs/sql_small.py`). `path='/data/spider'`: Spider, or anything in its layout. Each world shows an episode at the top of its file.
"""

import dataclasses
import functools
import os
import random
from collections.abc import Mapping, Sequence

from rlx.envs import _sql_domains, _sql_four, _sql_hidden, _sql_layout, _sql_questions, _sql_single, _sql_spider, sql_data
from rlx.types import Action, Episode, Obs, Step, Task

State, Question = sql_data.State, sql_data.Question
SPLITS = ('train', 'held_out_questions', 'held_out_databases')

# the union over all worlds; `Sql.writes` is what one of them writes
writes = ('reward/task', 'reward/answer', 'reward/format', 'reward/schema',
          'label/state', 'label/action', 'label/next', 'label/schema', 'label/explore', 'label/act')

_WORLDS = dict(hidden_names=_sql_hidden, four_acts=_sql_four, spider=_sql_spider)
_TURNS = dict(hidden_names=6, four_acts=10, spider=8)
_MADE = dict(max_rows=200, max_bytes=16_384, vm_steps=100_000, seconds=5.)
# Spider's longest gold result has 20,662 rows and 289,161 bytes; its heaviest query needs between 30 and 100 million steps, a second
_LIMITS = dict(hidden_names=_MADE, four_acts=_MADE, spider=dict(max_rows=50_000, max_bytes=1 << 20, vm_steps=100_000_000, seconds=30.))


def sql(*, world: str | None = None, path: str | None = None, protocol: str = 'multi', instruction: str | None = None, seed: int = 0,
        root: str | None = None, train_databases: int = 96, held_databases: int = 32, turns: int | None = None,
        questions: int = 20_000, held_questions: int = 2000, mix: Mapping | Sequence | None = None, schema: str = 'truematch',
        unconfirmed: float = -0.1, synonyms: int = 2, max_rows: int | None = None, max_bytes: int | None = None,
        vm_steps: int | None = None, seconds: float | None = None) -> 'Sql':
  """Text-to-SQL in which the schema is unknown (or, with `protocol='single'`, shown).

  Splits: 'train'; 'held_out_questions': training databases, but no combination of entity, family and attributes that occurs in
  training (a fifth of them is kept back, by a hash of the combination); 'held_out_databases': databases never seen, every
  combination, and no question whose gold SQL text occurs among the `questions` of training. That set is fixed by the seed
  and computed when it is first needed (0.5 s for 20,000), so training questions are not thinned out for its sake.

  Splits with `path`: 'dev', in the order of `dev.json`; 'held_out_databases', the same; 'train_all', `train_spider.json` and
  `train_others.json` (if there) in their order; 'held_out_questions', one gold query in twenty of these, by a hash of database and query,
  with all questions that ask for it; 'train', the others.

  Args:
    world: 'hidden_names' | 'four_acts' | 'spider'; None: 'spider' where a path is given, else 'hidden_names'.
    path: folder in Spider's layout: `dev.json`, `train_spider.json`, `database/<db>/<db>.sqlite`; its files must not change.
      What makes databases and questions (seed, root, numbers, synonyms) is then not used.
    protocol: 'multi': the world's own. 'single': schema and question are shown, one action gives the query (in a ```sql fence, or from
      the first SELECT or WITH on); every world has it.
    instruction: begins the prompt; None: Spider's (`_sql_spider.INSTRUCTION`), that of 'single' (`_sql_single.INSTRUCTION`), none in
      the made worlds.
    seed: of databases, questions and split; the combinations kept back are the same for all seeds.
    root: folder for the SQLite files (each set in a subfolder named after its content); None: `~/.cache/rlx` or
      `$XDG_CACHE_HOME/rlx`.
    train_databases: number of databases to train on. With few, a policy learns their names by heart instead of exploring.
    held_databases: number of databases never trained on.
    turns: actions until an episode is over unanswered; None: 6 in `hidden_names`, 10 in `four_acts`, 8 in `spider`.
    questions: number of training questions.
    held_questions: number of questions in each of the other splits.
    mix: experts and their shares, as a mapping or as pairs; None: the world's or the protocol's own.
    schema: `four_acts`: how a proposed schema is scored. Paid only if the answer is right: 'truematch' (the paper's; all or
      nothing), 'recall_then_precision_strict'. Paid in any case: 'totalmatch' (the release's default), and
      'recall_then_precision', 'f1', 'precision', 'recall', which the release computes but never pays.
    unconfirmed: `hidden_names`: reward of an episode that is never confirmed, breaks a tag or runs out of turns; `spider`: that is never
      confirmed; 'single': whose answer holds no query.
    synonyms: `hidden_names`: names a concept may have, 1 to 3.
    max_rows: longest result that is not an error; None: 200 in the made worlds, 50,000 in `spider`.
    max_bytes: likewise, its size; None: 16 KiB, 1 MiB.
    vm_steps: work a query may do, in steps of SQLite's virtual machine; None: 100,000, 100,000,000 (about a second).
    seconds: wall-clock backstop of a query; the episode then ends with `end` 3 and counts in the metric `backstop`; None: 5, 30.

  Rewards, on the last step. `hidden_names`, `spider`, 'single': 'task' is 1 if the confirmed query gives the rows of the gold one (in its
  order if the gold query orders), 0 if not, `unconfirmed` elsewhere. `four_acts`: 'answer' 1 if right, 0.2 if it runs; 'format' 0.1 if
  all four acts occurred and none was malformed, out of order or a syntax error; 'schema'; 'task' = answer + format.

  Labels: 'state' and 'next' (what is observed before and after the step), 'action'; 'schema' is 1 on the steps that explore
  (`hidden_names`, `spider`) or lead up to the proposal (`four_acts`, also as 'explore', beside 'act').

  Metrics of a step: 'valid' (it was an action), 'explored'; of the last one 'correct' (`spider`, 'single': and 'runs'); where they
  occur, 'out_of_turns', 'backstop' and 'gold_failed' (`spider`: the gold query did not run, `end` is 3).

  Raises:
    ValueError: unknown world, protocol, split, schema mode or expert, sizes below 1; a file of the layout is missing or is none.

  Source: `four_acts` after arXiv:2603.16448 and stulove123/TRUST-SQL-@0d41f2d3 (TrustSQL/examples/nl2sql). Known deviations:
  one proposal, which ends exploring (without one all steps have label `schema`, theirs those up to the last exploration);
  exploring is by name, not by SQL; an answer confirms the last query instead of repeating it; rows are compared as multisets, not as
  sets of the first 30. Spider: arXiv:1809.08887; its test suite's comparison also allows for columns in another order.
  """
  world = world or ('hidden_names' if path is None else 'spider')
  if world not in _WORLDS:
    raise ValueError(f"world '{world}' is not one of {sorted(_WORLDS)}")
  if protocol not in ('multi', 'single'):
    raise ValueError(f"protocol is 'multi' or 'single', not {protocol!r}")
  if (path is None) == (world == 'spider'):
    raise ValueError("world 'spider' needs a path, the folder that holds dev.json, train_spider.json and database/" if path is None else
                     f"path is for world 'spider': leave out world '{world}', or the path")
  if path is not None:
    if not isinstance(path, str | os.PathLike):
      raise ValueError(f'path is a folder, not {path!r}')
    path = _sql_layout.folder(path)
    _sql_layout.read(path)
    _sql_layout.keys(path)
  if schema not in _sql_four.MODES:
    raise ValueError(f"schema '{schema}' is not one of {sorted(_sql_four.MODES)}")
  sizes = dict(train_databases=train_databases, held_databases=held_databases, questions=questions,
               held_questions=held_questions)
  if wrong := {k: v for k, v in sizes.items() if v < 1}:
    raise ValueError(f'these must be at least 1: {wrong}')
  if not 1 <= synonyms <= 3:
    raise ValueError(f'synonyms is 1, 2 or 3, not {synonyms}')
  own = dict(_rules(world, protocol).MIX)
  mix = own if mix is None else dict(mix)
  if unknown := sorted(set(mix) - set(own)):
    raise ValueError(f"world '{world}' has no experts {unknown}; it has {sorted(own)}")
  given = dict(max_rows=max_rows, max_bytes=max_bytes, vm_steps=vm_steps, seconds=seconds)
  limits = {**_LIMITS[world], **{k: v for k, v in given.items() if v is not None}}
  return Sql(world=world, path=path, protocol=protocol, instruction=instruction, seed=seed, root=root, turns=turns or _TURNS[world],
             mix=tuple((kind, float(share)) for kind, share in mix.items()), schema=schema, unconfirmed=float(unconfirmed),
             synonyms=synonyms, **limits, **sizes)


def _rules(world, protocol):
  return _sql_single if protocol == 'single' else _WORLDS[world]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sql:
  """The environment `sql` makes: a value, that pickles. Its fields are explained there."""
  world: str
  path: str | None
  protocol: str
  instruction: str | None
  seed: int
  root: str | None
  train_databases: int
  held_databases: int
  turns: int
  questions: int
  held_questions: int
  mix: tuple[tuple[str, float], ...]
  schema: str
  unconfirmed: float
  synonyms: int
  max_rows: int
  max_bytes: int
  vm_steps: int
  seconds: float

  @property
  def rules(self):
    """The module of the world, or of the protocol 'single'."""
    return _rules(self.world, self.protocol)

  @property
  def writes(self) -> tuple[str, ...]:
    return tuple(f'reward/{c}' for c in self.rules.CHANNELS) + tuple(f'label/{k}' for k in self.rules.LABELS)

  @property
  def limits(self) -> dict:
    return dict(max_rows=self.max_rows, max_bytes=self.max_bytes, vm_steps=self.vm_steps, seconds=self.seconds)

  def tasks(self, split: str) -> Sequence[Task]:
    """The questions of a split; `data` is a `Question`, made when it is asked for."""
    splits = SPLITS if self.path is None else _sql_layout.SPLITS
    if split not in splits:
      hint = ': for that one give a path to Spider' if split in _sql_layout.SPLITS else ''
      raise ValueError(f"split '{split}' is not one of {list(splits)}{hint}")
    if self.path is not None:
      return _sql_layout.Questions(self.path, split)
    _databases(self)
    return Tasks(self, split)

  def reset(self, task: Task, seed: int) -> tuple[State, Obs]:
    """The beginning of an episode; nothing is drawn, so `seed` changes nothing."""
    del seed
    text = self.rules.prompt(self, task.data)
    return State(task.id, task.data), Obs(text, {'state': _normal(text)})

  def step(self, state: State, action: Action) -> tuple[State, Step]:
    """One action and what comes of it."""
    if state.over:
      raise ValueError(f'the episode of task {state.task} is over')
    rules, said = self.rules, action.text
    after, obs, act, end, reward, metrics = rules.step(self, state._replace(turn=state.turn + 1), said)
    seen = _normal(obs)
    label = {'action': _normal(said), 'next': seen, **rules.labels(state, act)}
    metrics = {'valid': float(act is not None), 'explored': float(act in ('explore', 'explore_schema')), **metrics}
    if end:
      after = after._replace(over=True)
      if end != 3:
        metrics.setdefault('correct', 0.)
    return after, Step(obs, reward, end, label, metrics, {} if end else {'state': seen})

  def cut(self, state: State) -> Step:
    """What an episode is paid that is cut off from outside, by a limit of its length."""
    return Step('', self.rules.unfinished(self, state), end=2, metrics={'correct': 0.})

  def expert(self, task: Task, seed: int):
    """A noisy scripted speaker, drawn from `mix`: yields actions, is sent what is observed."""
    rng = random.Random(f'{seed}/{task.id}')
    kinds, shares = zip(*self.mix)
    return self.rules.expert(task.data, rng.choices(kinds, shares)[0], rng)

  def score(self, task: Task, episode: Episode) -> dict[str, float]:
    """`accuracy`: the confirmed query was right; `explored`: there was an exploring step."""
    del task
    metrics = [n.metrics for n in episode.nodes]
    return dict(accuracy=metrics[-1].get('correct', 0.), explored=float(any(m.get('explored') for m in metrics)))


class Tasks(Sequence):
  """Questions made when they are asked for: number i of a split depends on the environment's seed, the split and i alone."""

  def __init__(self, env: Sql, split: str):
    self.env, self.split = env, split

  def __len__(self) -> int:
    return self.env.questions if self.split == 'train' else self.env.held_questions

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[j] for j in range(*i.indices(len(self)))]
    if not -len(self) <= i < len(self):
      raise IndexError(f"question {i} of split '{self.split}', which has {len(self)}")
    i %= len(self)
    return Task(f'sql/{self.env.world}/{self.env.seed}/{self.split}/{i}', _question(self.env, self.split, i))


# ---- databases and questions ---------------------------------------------------------------------------------------

def _databases(env):
  return _made(env.world, env.seed, env.train_databases, env.held_databases, env.synonyms, env.root)


@functools.lru_cache(maxsize=8)
def _made(world, seed, train, held, synonyms, root):
  """(databases to train on, databases never seen, table names of the former), with the files in place."""
  def one(i, unseen):
    rng = random.Random(f'{world}/{seed}/{"held" if unseen else "train"}/{i}')
    if world == 'four_acts':
      return _sql_domains.database(i, rng, unseen)
    return _sql_hidden.database(i + train * unseen, rng, synonyms)
  made = sql_data.write([one(i, False) for i in range(train)] + [one(i, True) for i in range(held)], root)
  return made[:train], made[train:], frozenset(t.name for db in made[:train] for t in db.tables)


def _question(env, split, i):
  """Draws until a question belongs to the split."""
  train, held, tables = _databases(env)
  pool = held if split == 'held_out_databases' else train
  rng = random.Random(f'{env.seed}/{split}/{i}')
  for _ in range(10_000):
    db = rng.choice(pool)
    q = _sql_questions.question(db, rng) if env.world == 'four_acts' else _sql_hidden.question(db, rng, env.synonyms)
    if split == 'held_out_databases':
      belongs = q.uses[0][0] not in tables or q.sql not in _training_texts(env)
    else:
      belongs = sql_data.held_out(q.combo) == (split == 'held_out_questions')
    if belongs:
      return q
  raise ValueError(f"found no question for split '{split}': {len(pool)} databases are too few")


def _training_texts(env):
  return _texts(dataclasses.replace(env, turns=0, mix=(), schema='', held_questions=0, unconfirmed=0.))


@functools.lru_cache(maxsize=4)
def _texts(env):
  return frozenset(_question(env, 'train', i).sql for i in range(env.questions))


def _normal(text):
  return ' '.join(text.split())
