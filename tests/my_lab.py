"""One of everything, as a user's own file outside the package would hold it; nothing here is known to rlx."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Curriculum, Expand, Explorer, Loss, Obs, Probe, Said, Score, Span, Step, Task


# ---- device side ---------------------------------------------------------------------------------------------------

def mine(batch, *, channel='task', scale=1.):
  """The estimator of the README: a step's value minus the one before."""
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  v = tree.leaf_mean(ret, on, n.parent)
  up = tree.above(v, n.parent, groups.group_stats(ret, n.group, on).mean)
  return jnp.where(tree.through(on, n.parent), scale * (v - up), 0.)


def margin(*, head='mine', weight=1.):
  """A loss with a head and an extra: the value regresses the return's sign, the margin over the mean logit is raised."""
  def term(out, batch, adv, stats):
    return weight * (jnp.square(out.value[head] - adv) - out.extra['margin']) + 0. * stats
  def prepare(state, out, batch, adv, key):
    del out, adv, key
    return state + 1, jnp.sum(batch.tokens.mask.astype(jnp.float32))
  return Loss(term, prepare, init=lambda: jnp.int32(0), heads=(head,), extra=dict(margin=lambda logits, i: logits[i] - jnp.mean(logits)))


def early(batch, keep, *, before=3):
  return keep & (batch.tokens.stream['late'] < before)


def mark(batch, *, step):
  late = batch.tokens.position.astype(jnp.float32) + 0. * step.astype(jnp.float32)
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream={**batch.tokens.stream, 'late': late}))


# ---- host side -----------------------------------------------------------------------------------------------------

writes = ('reward/task', 'reward/length', 'label/state', 'value/p_end', 'prompt/p_end', 'role/first')


def length(episode, *, per=.01):
  """A reward: what each action costs; no verdict on the first."""
  return dict(length=[None if i == 0 and len(episode.nodes) > 1 else -per * len(n.ids) for i, n in enumerate(episode.nodes)])


def ranked(episodes):
  """A reward of a whole prompt."""
  order = sorted(range(len(episodes)), key=lambda i: len(episodes[i].text))
  return [dict(rank=[0.] * (len(e.nodes) - 1) + [float(order.index(i))]) for i, e in enumerate(episodes)]


ranked.grain = 'group'
ranked.writes = ('reward/rank',)


def last_word(nodes):
  return [n.text.split()[-1] if n.text.split() else '' for n in nodes]


def p_end(view):
  return [Probe(node=i, name='p_end', suffix=' .') for i in range(-1, len(view.nodes))]


def two_easy(*, env, n=2):
  """A curriculum with a memory: it counts what it has seen."""
  tasks = env.tasks('train')
  return Curriculum(init=lambda: [0, 0], sample=lambda s, k, key: ([s[0] + k, s[1]], [tasks[(s[0] + i) % n] for i in range(k)]),
                    update=lambda s, groups: [s[0], s[1] + len(groups)])


def shout(history, task):
  """A context: the first observation in front, then everything."""
  del task
  parts = [history[0].obs]
  for i, turn in enumerate(history):
    parts += ([turn.obs] if i else []) + ([Said(i)] if turn.text is not None else [])
  return parts


def halves(ids, text, offsets):
  del text, offsets
  return [Span(0, (len(ids) + 1) // 2, frozenset({'first'})), Span(0, len(ids), frozenset({'action'}))]


class Echo(NamedTuple):
  """An environment: repeat the word."""
  writes = ('reward/task', 'label/state')

  def tasks(self, split):
    return [Task(f'{split}{i}', dict(word=w)) for i, w in enumerate('one two three four'.split())]

  def reset(self, task, seed):
    return (task.data['word'], 0), Obs(f"say {task.data['word']}", {'state': 'start'})

  def step(self, state, action):
    word, turn = state
    if turn == 2:
      return state, Step('', {'task': float(word in action.text)}, 1)
    return (word, turn + 1), Step(' again', {'task': 0.}, 0, next={'state': 'again'})

  def expert(self, task, seed):
    for _ in range(3):
      yield f" {task.data['word']} ."


def echo():
  return Echo()


def forking():
  """An explorer that forks at a token offset, forces a suffix, lets a second model speak and asks a Score."""
  def init(task):
    return 0

  def expand(turn, view, seed):
    assert len(seed) >= 3
    if turn == 0:                       # the trunk: one whole episode
      return 1, [Expand()]
    if turn == 1:                       # a score of its steps
      return 2, [Score('words', range(len(view.nodes)))]
    if turn == 2:
      assert sorted(view.value['words']) == [0, 1, 2]
      return 3, [Expand(node=1, at=1, width=2), Expand(node=0, limit=1, suffix=' two', sampling=dict(temperature=.5)),
                 Expand(node=0, by='friend', limit=1)]
    return 4, []                        # what 'limit' left open is abandoned

  return Explorer(init, expand)


def words(pool, asked):
  assert set(pool) == {'policy', 'friend'}
  return [float(len(view.nodes[n].ids)) for view, n in asked]
