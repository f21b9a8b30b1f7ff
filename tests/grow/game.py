"""A small game with an untrained policy, so that everything a rollout does can be worked out by hand.

The word is shown as 'ab:'; each action is answered by the number of its ids modulo 10, as ' 7.'; the episode ends after `turns`
actions. One layer, 16 wide; its logits are spread enough that a wrong context shows.
"""

import functools
import os
import tempfile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tokenizers

from rlx.contexts.append import append
from rlx.explorers.flat import flat
from rlx.grow import engine as engines
from rlx.grow import forest, rollout
from rlx.grow import tokenizer as toks
from rlx.learn import pack, rows
from rlx.learn.forward import forward
from rlx.models.transformer import transformer
from rlx.types import Explorer, Model, Obs, Step, Task

TEXTS = ['abab cdcd ab cd', ' 0. 1. 2. 3. 4. 5. 6. 7. 8. 9.', 'abcd: dcba: <d', '12a34a56a78a90a' * 2]
LIMITS = engines.Limits(slots=16, width=96, turn=8, chunk=8, buckets=(4,), copy_from=6)
STOP = engines.Stop(ids=(1,), strings=())         # '<end>'
KEY = jax.random.key(7)
BUCKET = pack.Bucket(rows=24, width=96, nodes=192, prompts=16)


class Counting:
  """A `tokenizers` object that remembers every text it encodes."""

  def __init__(self, inner):
    self.inner, self.encoded = inner, []

  def encode(self, text, **kw):
    self.encoded.append(text)
    return self.inner.encode(text, **kw)

  def __getattr__(self, name):
    return getattr(self.inner, name)


@functools.cache
def _made():
  return toks.bpe(texts=TEXTS, size=32, special=('<end>',), alphabet='seen')


@functools.cache
def _json():
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'tokenizer.json')
    _made().save(path)
    with open(path, encoding='utf-8') as f:
      return f.read()


def counted():
  """A fresh tokenizer, and the list of texts it has encoded."""
  inner = Counting(tokenizers.Tokenizer.from_str(_json()))
  return toks.wrap(inner), inner.encoded


TOK, _ = counted()
POLICY = transformer(vocab=TOK.size, layers=1, dim=16, heads=2, ff=32, tied=False)


@functools.cache
def params(seed: int = 0):
  p = POLICY.init(jax.random.key(seed))
  return {**p, 'head': jax.tree.map(lambda x: x * 1.5, p['head'])}


@functools.cache
def _sampler(step, ids):
  return engines.sampler(POLICY, engines.Limits(turn=step), engines.Stop(ids=ids))


def engine(stop=STOP, *, seed=0, tok=TOK, **limits) -> engines.Engine:
  """Empty slots; programs are compiled once a shape for all tests."""
  limits = LIMITS._replace(**limits)
  step = engines.segment(limits, stop)
  made, kept = _sampler(step, stop.ids), engines.sampler
  engines.sampler = lambda *_: made
  try:
    return engines.create(Model(POLICY, params(seed), tok), limits, stop)
  finally:
    engines.sampler = kept


class Game(NamedTuple):
  """See above."""
  turns: int = 3
  words: tuple = ('ab', 'cdc', 'abcd', 'd', 'cab', 'ba')

  def tasks(self, split):
    return [Task(f'{split}{i}', dict(word=w, answer=f' {i}.')) for i, w in enumerate(self.words)]

  def reset(self, task, seed):
    del seed
    return (task.data['word'], 0), Obs(f"{task.data['word']}:", {'state': task.data['word']})

  def step(self, state, action):
    word, turn = state
    assert action.text == TOK.decode(action.ids)
    end = int(turn + 1 == self.turns)
    return (word, turn + 1), Step('' if end else f' {len(action.ids) % 10}.', {'task': float(len(action.ids))}, end,
                                  label={'action': action.text}, next={'state': turn + 1})


def scripted(*script) -> Explorer:
  """Returns `script[k]` when it is asked for the k-th time: a list of wishes, or a function of the view that gives one."""
  def expand(turn, view, seed):
    assert len(seed) >= 3 and all(isinstance(s, int) for s in seed)
    wishes = script[turn] if turn < len(script) else []
    return turn + 1, wishes(view) if callable(wishes) else wishes
  return Explorer(lambda task: 0, expand)


def plan(**kw) -> rollout.Plan:
  return rollout.Plan(**{**dict(env=Game(), explorer=flat(width=2), context=append, sampling=dict(temperature=1.)), **kw})


def grow(pool=None, tasks=None, *, n=2, key=KEY, first=0, clock=None, **kw):
  """Finished prompts in their order."""
  p = plan(**kw)
  tasks = p.env.tasks('train')[:n] if tasks is None else tasks
  pool = engine() if pool is None else pool
  pool = pool if isinstance(pool, dict) else {'policy': pool}
  groups = list(rollout.rollout(pool, tasks, plan=p, key=key, first=first, clock=clock))
  return sorted(groups, key=lambda g: g.index)


def spoken(groups) -> dict:
  """(prompt, branch, depth) -> what was drawn there: the same whatever order paths finished in."""
  out = {}
  for g in groups:
    depth = []
    for n in g.nodes:
      depth.append(depth[n.parent] + 1 if n.parent >= 0 else 0)
      assert (g.task.id, n.branch, depth[-1]) not in out
      out[g.task.id, n.branch, depth[-1]] = n
  return out


def assert_same(ours, theirs):
  """The same prompts, steps and numbers."""
  ours, theirs = spoken(ours), spoken(theirs)
  assert set(ours) == set(theirs) and ours
  for k, a in ours.items():
    b = theirs[k]
    assert (a.ids, a.context, a.fresh, a.obs, a.end, a.reward) == (b.ids, b.context, b.fresh, b.obs, b.end, b.reward), k
    np.testing.assert_allclose(a.logp, b.logp, atol=1e-5, rtol=0)


@functools.cache
def _forward():
  return jax.jit(lambda p, tokens, temperature: forward(POLICY, p, tokens, temperature=temperature))


def packed(groups, *, by=rows.paths, bucket=BUCKET) -> pack.Packed:
  made, = pack.pack([forest.cut(g) for g in groups], rows=by, buckets=[bucket], streams=('entropy', 'sampler_logp'))
  assert not made.dropped
  return made


def gap(groups, *, temperature=1., by=rows.paths) -> tuple[float, int]:
  """(largest distance between the sampler's log-probabilities and `forward`'s, tokens compared); entropies are compared too."""
  t = packed(groups, by=by).batch.tokens
  assert (t.segment.max(1) > 0).any(), 'rows are not packed'
  out = _forward()(params(), t, jnp.float32(temperature))
  assert t.sampled.any() and (t.logp[t.sampled] < 0).all()
  np.testing.assert_allclose(out.entropy[t.sampled], t.stream['entropy'][t.sampled], atol=1e-4, rtol=0)
  return float(np.abs(np.asarray(out.logp)[t.sampled] - t.logp[t.sampled]).max()), int(t.sampled.sum())


def wrong_gap(groups, *, temperature) -> float:
  """The distance at another temperature."""
  t = packed(groups).batch.tokens
  out = _forward()(params(), t, jnp.float32(temperature))
  return float(np.abs(np.asarray(out.logp)[t.sampled] - t.logp[t.sampled]).max())


@functools.cache
def _plain():
  last = jnp.full((1, LIMITS.width), LIMITS.width, jnp.int32)
  place = jnp.arange(LIMITS.width, dtype=jnp.int32)[None]
  return jax.jit(lambda p, ids: POLICY.apply(p, ids, place, last)[0][0] @ POLICY.head(p))


def logits_by_hand(ids, *, seed=0, temperature=1.) -> np.ndarray:
  """`[n, V]` f64 log-probabilities of what follows each id, by a plain call of the policy on the whole sequence."""
  padded = np.zeros((1, LIMITS.width), np.int32)
  padded[0, :len(ids)] = ids
  z = np.asarray(_plain()(params(seed), padded), np.float64)[:len(ids)] / temperature
  return z - z.max(1, keepdims=True) - np.log(np.exp(z - z.max(1, keepdims=True)).sum(1, keepdims=True))


def logp_by_hand(ids, *, seed=0, temperature=1.) -> np.ndarray:
  """`[n - 1]` f64 log-probability of each id but the first."""
  return logits_by_hand(ids, seed=seed, temperature=temperature)[np.arange(len(ids) - 1), list(ids)[1:]]
