"""Prompts as a sampler would leave them, drawn at random; every drawn token has an id of its own, so it can be followed.

`seen[i]` is what the model had read when step i ended: all ids before the action, and the action. A drawn token `t` has the
log-probability `logp(t)`, so that a column that slipped by one token is noticed.
"""

import random

import numpy as np

from rlx.types import Group, Node, Task


def logp(token) -> np.ndarray:
  """The behaviour log-probability that a drawn token carries."""
  return -np.asarray(token, np.float32) / 1000


def step(parent, ids, context=(), *, fresh=None, sampled=True, end=0, stem=None, obs='', text='', by='policy', **columns) -> Node:
  """A step of a forest; a first step is fresh."""
  ids = list(ids)
  drawn = np.broadcast_to(np.asarray(sampled, bool), len(ids)).copy()
  return Node(parent=parent, obs=obs, context=list(context), fresh=parent < 0 if fresh is None else fresh, text=text, ids=ids,
              sampled=drawn, logp=np.where(drawn, logp(ids), 0).astype(np.float32),
              stream=dict(entropy=np.asarray(ids, np.float32) / 7), stem=stem, end=end, by=by, **columns)


def group(nodes, name='task', **columns) -> Group:
  """A finished prompt."""
  return Group(Task(name), list(nodes), **columns)


def grow(seed: int, *, steps: int = 12, stems: bool = True, rewrite: float = .2) -> tuple[Group, list[list[int]]]:
  """A random tree: forks after steps and inside actions, forced tokens, rewritten contexts, all four ends, dead ends.

  Args:
    seed: of everything.
    steps: how many.
    stems: branch inside actions too.
    rewrite: share of steps whose context was rewritten.

  Returns:
    (the prompt, `seen`).
  """
  rng = random.Random(seed)
  drawn, word = (iter(range(k + 200 * seed, k + 200 * seed + 200)) for k in (1, 100_000))      # what is drawn, what is read
  nodes, seen = [], []
  for i in range(steps):
    goes_on = [j for j, n in enumerate(nodes) if not n.end]
    longer = [j for j, n in enumerate(nodes) if len(n.ids) > 1]
    take = lambda n: [next(drawn) for _ in range(n)]
    if stems and longer and rng.random() < .4:
      owner = rng.choice(longer)
      at, of = rng.randrange(1, len(nodes[owner].ids)), nodes[owner]
      new = take(rng.randrange(0, 5))
      ids, parent, stem = [*of.ids[:at], *new], of.parent, (owner, at)
      context, fresh, obs = of.context, of.fresh, of.obs
      before = seen[owner][:len(seen[owner]) - len(of.ids)]
      sampled = [*of.sampled[:at], *[rng.random() < .8 for _ in new]]
    else:
      parent = rng.choice([-1, *goes_on, *goes_on])
      heard = [next(word) for _ in range(rng.randrange(1, 4))]
      fresh = parent < 0 or rng.random() < rewrite
      before = heard if fresh else [*seen[parent], *heard]
      ids, context, obs, stem = take(rng.randrange(0, 7)), heard, f'[{i}]', None
      sampled = [rng.random() < .8 for _ in ids]
    end = rng.choice([0, 0, 0, 1, 2, 3])
    nodes.append(step(parent, ids, context, fresh=fresh, sampled=sampled or True, end=end, stem=stem, obs=obs, text=f'<{i}>',
                      reward=dict(task=float(i)), value=dict(v=float(i)), metrics=dict(m=1.), label=dict(turn=i), branch=i))
    seen.append([*before, *ids])
  return group(nodes, f'prompt-{seed}'), seen


def lived(g: Group, ends=(1, 2)) -> set[int]:
  """The steps an ended episode runs through."""
  out = set()
  for i, n in enumerate(g.nodes):
    if n.end in ends:
      while i >= 0:
        out.add(i)
        i = g.nodes[i].parent
  return out


def trained(g: Group) -> list[int]:
  """Every drawn token an ended episode runs through, once, in order; of a group that is not cut."""
  return sorted({t for i in lived(g) for t, s in zip(g.nodes[i].ids, g.nodes[i].sampled, strict=True) if s})
