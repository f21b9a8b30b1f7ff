"""Labels and estimators: from strings to advantages, and every method on a batch that has all columns."""

import zlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rlx import config
from rlx.bench.table import Line, columns, compiled, seconds, table
from rlx.grow import labels
from rlx.types import Batch, Node, Nodes, Tokens

WIDTH, TURNS, STATES, CHARS = 8, 50, 30, 400   # rollouts, steps of each, observations of a prompt, their characters
TOKENS = 2                                     # of a step, where all methods run
MEMORY, TIME = 8 * 2**30, 5.                   # bytes a method may want beside its arguments; seconds for its repetitions
METHOD = 'method '                             # what their lines begin with


def _episodes(size):
  """Observations (bytes), group names, rollout names and final rewards of `size` steps, drawn once with seed 0."""
  if size % (WIDTH * TURNS):
    raise ValueError(f'bench credit takes sizes that are multiples of {WIDTH * TURNS} ({WIDTH} rollouts of {TURNS} '
                     f'steps), got {size}')
  rng = np.random.RandomState(0)
  obs, group, rollout, reward = [], [], [], []
  for _ in range(size // (WIDTH * TURNS)):
    name = rng.bytes(16).hex()
    states = [bytes(rng.randint(97, 123, CHARS, dtype=np.uint8)) for _ in range(STATES)]
    for _ in range(WIDTH):
      mine, at, score = rng.bytes(16).hex(), 0, 10. * (rng.rand() < .4)
      for t in range(TURNS):
        obs.append(states[at])
        group.append(name)
        rollout.append(mine)
        reward.append(score * (t == TURNS - 1))
        at = min(STATES - 1, at + rng.randint(0, 3)) if rng.rand() < .8 else rng.randint(STATES)
  return obs, group, rollout, np.array(reward, np.float32)


def _step(parent, obs):
  none = np.zeros(0, np.float32)
  return Node(parent, obs, [], False, '', [], none.astype(bool), none, {})


def floor(group: Sequence[str], rollout: Sequence[str], obs: Sequence[str]) -> np.ndarray:
  """The plain program on string columns: number the groups, the rollouts, and the observations of each group."""
  def number(keys):
    ids = {}
    return np.fromiter((ids.setdefault(k, len(ids)) for k in keys), np.int64, len(obs))
  groups = number(group)
  number(rollout)
  return number(zip(groups.tolist(), obs))


def _label(nodes):
  return labels.intern([labels.exact(n) for n in nodes])


def _batch(state, reward):
  n = len(state)
  at = np.arange(n, dtype=np.int32)
  nodes = Nodes(
      parent=jnp.asarray(np.where(at % TURNS, at - 1, -1)), group=jnp.asarray(at // (WIDTH * TURNS)),
      valid=jnp.ones(n, bool),
      end=jnp.asarray((at % TURNS == TURNS - 1).astype(np.int32)), reward=dict(task=jnp.asarray(reward)),
      label=dict(state=jnp.asarray(state)))
  none, no = jnp.zeros((1, 1), jnp.int32), jnp.zeros((1, 1), bool)   # the estimators timed here read no token
  tokens = Tokens(ids=none, node=none - 1, segment=none - 1, position=none, sampled=no, mask=no, logp=jnp.zeros((1, 1)))
  return Batch(nodes=nodes, tokens=tokens)


def every_column(size: int) -> Batch:
  """`size` steps as above, two tokens each, an episode a row, with every column of `rlx.testing`'s tables drawn by its name."""
  from rlx import testing
  at, rows = np.arange(size, dtype=np.int32), (size // TURNS, TURNS * TOKENS)

  def draw(names, shape, dtype):
    make = lambda k, f: f(np.random.default_rng(zlib.crc32(k.encode())), int(np.prod(shape))).reshape(shape)
    return {k: jnp.asarray(make(k, f), dtype) for k, f in names.items()}
  nodes = Nodes(
      parent=jnp.asarray(np.where(at % TURNS, at - 1, -1)), group=jnp.asarray(at // (WIDTH * TURNS)), valid=jnp.ones(size, bool),
      end=jnp.asarray((at % TURNS == TURNS - 1).astype(np.int32)), reward=draw(testing.REWARDS, size, jnp.float32),
      judged=draw(testing.JUDGED, size, bool), label=draw(testing.LABELS, size, jnp.int32),
      value=draw(testing.VALUES, size, jnp.float32))
  yes = jnp.ones(rows, bool)
  tokens = Tokens(
      ids=jnp.asarray(np.arange(size * TOKENS, dtype=np.int32).reshape(rows) % 1000),
      node=jnp.asarray(np.repeat(at, TOKENS).reshape(rows)), segment=jnp.zeros(rows, jnp.int32),
      position=jnp.broadcast_to(jnp.arange(rows[1], dtype=jnp.int32), rows), sampled=yes, mask=yes,
      logp=draw(dict(logp=testing.LOGP), rows, jnp.float32)['logp'], role=draw(testing.ROLES, rows, bool),
      stream=draw(testing.STREAMS, rows, jnp.float32))
  return Batch(nodes=nodes, tokens=tokens, prompt=draw(testing.PROMPT, size // (WIDTH * TURNS), jnp.float32))


def method(name: str, batch: Batch, repeats: int) -> list[Line]:
  """Two lines, compile and run, of one method as the loop calls it: floats traced, an answer a step sent to its tokens.

  A modulator is timed behind `grpo`. A method that takes long is repeated less often; one that cannot run says why.
  """
  from rlx import testing
  size, took, median, why = batch.nodes.parent.shape[0], None, None, ''
  try:
    run, took, _ = compiled(testing.study(name).run, batch)
    need = getattr(run.memory_analysis(), 'temp_size_in_bytes', 0)
    if need > MEMORY:
      why = f'it wants {need / 2**30:.0f} GB of memory'
    else:
      first = seconds(run, 1, lambda: (batch,))
      median = seconds(run, max(1, min(repeats, int(TIME / first))), lambda: (batch,))
  except Exception as e:      # a method is foreign code
    why = f'{type(e).__name__}: {(str(e).splitlines() or [""])[0][:160]}'
  jax.clear_caches()
  most = 15. * max(size, 6400) / 6400
  return [Line(f'{METHOD}{name}, compile', size, None if took is None else 1e3 * took, 'ms'),
          Line(f'{METHOD}{name}, run', size, None if median is None else 1e3 * median, 'ms', most, why)]


def text(lines: Sequence[Line]) -> str:
  """The table of labels, GiGPO and HGPO; below it the methods, a row each, the fastest at the largest size first."""
  rest = [x for x in lines if not x.name.startswith(METHOD)]
  found, why = {}, []
  for x in lines:
    if x.name.startswith(METHOD):
      name, what = x.name.removeprefix(METHOD).rsplit(', ', 1)
      found.setdefault(name, {})[x.size, what] = x
      why += [f'{name}, {x.size:,} steps: {x.note}'] if x.note else []
  parts = [table(rest)] if rest else []
  if found:
    sizes = sorted({size for row in found.values() for size, _ in row})
    keys, last = [(size, what) for size in sizes for what in ('compile', 'run')], (sizes[-1], 'run')
    value = lambda x: 'n/a' if x is None or x.value is None else f'{x.value:.4g}'
    order = lambda name: float('inf') if value(found[name].get(last)) == 'n/a' else found[name][last].value
    most = next(x.target for row in found.values() for x in row.values() if x.size == sizes[-1] and x.target is not None)
    rows = [('ms', *(f'{what} {size:,}' for size, what in keys), f'above {most:.0f} ms')]
    for name in sorted(found, key=order):
      rows.append((name, *(value(found[name].get(k)) for k in keys), 'above' if most < order(name) < float('inf') else ''))
    parts.append(columns(rows, '<' + '>' * len(keys) + '<'))
    parts += ['n/a:\n' + '\n'.join(why)] if why else []
  return '\n\n'.join(parts)


def credit(*, sizes: Sequence[int] = (6400, 64000), repeats: int = 21, methods: Sequence[str] = ('all',)) -> list[Line]:
  """Strings to integers against a plain numpy program, then jitted GiGPO and HGPO, then every estimator and modulator.

  `size` steps are prompts of 8 rollouts of 50 turns with 400-character observations, every one a string object of its own,
  made anew for each run: Python keeps a string's hash, so a second run on the same objects would look faster than it is.

  Args:
    sizes: steps in a batch.
    repeats: runs behind each median.
    methods: names or dotted names of those that are timed on a batch with all columns; 'all', or 'none'.
  """
  from rlx.estimators.gigpo import gigpo
  from rlx.estimators.hgpo import hgpo

  lines = []
  for size in sizes:
    raw, group, rollout, reward = _episodes(size)
    parents = [-1 if i % TURNS == 0 else i % (WIDTH * TURNS) - 1 for i in range(size)]

    def strings():
      return group, rollout, [r.decode() for r in raw]

    def steps():
      flat = [_step(p, r.decode()) for p, r in zip(parents, raw)]
      return [flat[a:a + WIDTH * TURNS] for a in range(0, size, WIDTH * TURNS)],   # the arguments of `_label`

    plain, ours = seconds(floor, repeats, strings), seconds(_label, repeats, steps)
    lines += [Line('labels, plain numpy', size, 1e3 * plain, 'ms'), Line('labels', size, 1e3 * ours, 'ms'),
              Line('labels / plain numpy', size, ours / plain, 'x', 1.5)]
    batch = _batch(_label(*steps()), reward)
    for estimator in (gigpo, hgpo):
      run, took, calls = compiled(estimator, batch)
      name, median = estimator.__name__, seconds(run, repeats, lambda: (batch,))
      lines += [Line(f'{name}, compile', size, 1e3 * took, 'ms'),
                Line(f'{name}, run', size, 1e3 * median, 'ms', 15. * max(size, 6400) / 6400),
                Line(f'{name}, host calls', size, calls, '', 0)]
  names = [n for m in methods if m != 'none' for n in (config.names('estimator') if m == 'all' else [m])]
  for size in sizes if names else ():
    batch = every_column(size)
    for name in names:
      lines += method(name, batch, repeats)
  return lines
