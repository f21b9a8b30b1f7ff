"""One of everything, as a user's own file outside the package would hold it; nothing here is known to rlx."""

import dataclasses
from typing import NamedTuple

import jax
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


kept = []   # tokens that reached the loss, a number each update


def margin(*, head='mine', weight=1.):
  """A loss with a head, an extra and a memory: a value regresses the advantage, the margin over the mean logit is raised."""
  def prepare(state, out, batch, adv, key):
    del out, adv, key
    count = jnp.sum(batch.tokens.mask)
    jax.debug.callback(lambda n: kept.append(int(n)), count)
    return state + 1, count.astype(jnp.float32)

  def term(out, batch, adv, stats):
    del batch
    return weight * (jnp.square(out.value[head] - adv) - out.extra['margin']) / jnp.log1p(stats)

  return Loss(term, prepare, init=lambda: jnp.int32(0), heads=(head,),
              extra=dict(margin=lambda logits, i: logits[i] - jnp.mean(logits)))


def early(batch, keep, *, before=3.):
  """A selector: what stands near the beginning of its sequence."""
  return keep & (batch.tokens.stream['late'] < before)


def mark(batch, *, step):
  """A transform: how late a token comes."""
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
  """An environment: say the word, three times over. Its words are special tokens of the tokenizer, so they can be counted."""
  writes = ('reward/task', 'label/state')

  def tasks(self, split):
    return [Task(f'{split}{i}', dict(word=w)) for i, w in enumerate('one two three four'.split())]

  def reset(self, task, seed):
    return (task.data['word'], 0), Obs(f"<say> {task.data['word']}", {'state': 'start'})

  def step(self, state, action):
    word, turn = state
    if turn == 2:
      return state, Step('', {'task': float(word in action.text)}, 1)
    return (word, turn + 1), Step('<again>', {'task': 0.}, 0, next={'state': 'again'})

  def expert(self, task, seed):
    for _ in range(3):
      yield f" {task.data['word']} ."


def echo():
  return Echo()


def forking():
  """An explorer that forks at a token offset, forces a suffix, lets a second model speak and asks a Score.

  The trunk 0-1-2, then below step 0: what the friend says, two branches of step 1 behind its first id, a forced word, and a step
  that is never gone on with. What 'limit' has stopped goes on afterwards, but for that one.
  """
  def init(task):
    return dict(turn=0, task=task.id)

  def expand(state, view, seed):
    assert len(seed) >= 3 and state['task'] == view.task.id
    turn, nodes = state['turn'], view.nodes
    find = lambda test: next(i for i, n in enumerate(nodes) if test(n))
    wishes = []
    if turn == 0:
      wishes = [Expand()]
    elif turn == 1:
      wishes = [Score('words', range(len(nodes)))]
    elif turn == 2:
      assert view.value == {'words': {0: 6., 1: 6., 2: 6.}} and view.running == 0
      wishes = [Expand(node=1, at=1, width=2), Expand(node=0, limit=1, suffix=' two'),
                Expand(node=0, limit=1, sampling=dict(temperature=.5)), Expand(node=0, by='friend', limit=1)]
    elif turn == 3:
      assert view.running == 2 and all(len(n.logp) == len(n.ids) == len(n.stream['entropy']) for n in nodes)
      wishes = [Expand(node=find(lambda n: n.by == 'policy' and not n.sampled[0])), Expand(node=find(lambda n: n.by == 'friend'))]
    return dict(state, turn=turn + 1), wishes

  return Explorer(init, expand)


forking.writes = ('stream/temperature',)


def words(pool, asked):
  """A scorer: how long each step is; asked once for all prompts."""
  assert set(pool) == {'policy', 'friend'} and len(asked) == 6
  return [float(len(view.nodes[n].ids)) for view, n in asked]
