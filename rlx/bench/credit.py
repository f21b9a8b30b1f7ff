"""Labels and step-level estimators: from strings to advantages."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from rlx.bench.table import Line, compiled, seconds
from rlx.grow import labels
from rlx.types import Batch, Node, Nodes, Tokens

WIDTH, TURNS, STATES, CHARS = 8, 50, 30, 400   # rollouts, steps of each, observations of a prompt, their characters


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


def credit(*, sizes: Sequence[int] = (6400, 64000), repeats: int = 21) -> list[Line]:
  """Strings to integers against a plain numpy program, then jitted GiGPO and HGPO.

  `size` steps are prompts of 8 rollouts of 50 turns with 400-character observations, every one a string object of its own,
  made anew for each run: Python keeps a string's hash, so a second run on the same objects would look faster than it is.

  Args:
    sizes: steps in a batch.
    repeats: runs behind each median.
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
  return lines
