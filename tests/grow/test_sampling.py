"""The sampler against a plain forward pass over what it fed and drew."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlx.grow import sampling
from rlx.models.transformer import transformer

VOCAB, STOP = 19, (3, 7)


@functools.cache
def model(**kw):
  policy = transformer(**{**dict(vocab=VOCAB, layers=2, dim=16, heads=4), **kw})
  draw = np.random.default_rng(0)

  def leaf(path, x):
    name, noise = path[-1].key, draw.normal(size=x.shape)
    return (noise / math.sqrt(x.shape[-2]) if name == 'kernel' else .5 * noise + (name == 'scale')).astype(np.float32)
  return policy, jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(policy.init, jax.random.key(0)))


@functools.cache
def sampler(limit=5, stop=STOP, **kw):
  return sampling.make(model(**kw)[0], limit=limit, stop_ids=stop)


@functools.cache
def whole(**kw):
  return jax.jit(lambda params, *row: model(**kw)[0].apply(params, *row)[0].astype(jnp.float32)
                 @ model(**kw)[0].head(params).astype(jnp.float32))


def naive(ids, temperature, **kw):
  """(logp `[n]`, entropy `[n]`) of each id given those before it, from one forward pass; the first has none."""
  n, width = len(ids), 32
  row = np.pad(ids, (0, width - n)), np.arange(width), np.full(width, n)
  z = whole(**kw)(model(**kw)[1], *(x[None].astype(np.int32) for x in row))
  z = np.asarray(z, np.float64)[0, :n] / temperature
  logp = z - z.max(1, keepdims=True)
  logp -= np.log(np.exp(logp).sum(1, keepdims=True))
  first = np.full(1, np.nan)
  return (np.concatenate([first, logp[np.arange(n - 1), ids[1:]]]),
          np.concatenate([first, -(np.exp(logp) * logp).sum(1)[:-1]]))


def keys(n, seed=0):
  return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), n)))


class Run:
  """Host's view of a sampler in use: what each slot holds, and what was said of it."""

  def __init__(self, slots, width=32, limit=5, stop=STOP, **kw):
    self.s, self.params, self.size, self.limit = sampler(limit, stop, **kw), model(**kw)[1], slots, limit
    self.slots, self.held = self.s.empty(slots, width), [[] for _ in range(slots)]

  def feed(self, texts, bucket, chunk=6, **kw):
    """texts: slot -> ids."""
    rows = np.full(bucket, self.size, np.int32)
    ids, count = np.full((bucket, chunk), 1, np.int32), np.zeros(bucket, np.int32)
    for i, (slot, text) in enumerate(texts.items()):
      rows[i], count[i], ids[i, :len(text)] = slot, len(text), text
      self.held[slot] = self.held[slot] + list(text)
    self.slots, logp = self.s.extend(self.params, self.slots, rows, ids, count, **kw)
    return logp

  def draw(self, rows, bucket, seed=0, active=None, room=None, key=None, settings=None, **kw):
    """rows: slots. Returns the drawn turn."""
    index = np.full(bucket, self.size, np.int32)
    index[:len(rows)] = rows
    on = np.ones(bucket, bool)
    on[:len(rows)] = True if active is None else active
    all_keys = keys(self.size, seed) if key is None else key
    self.slots, out = self.s.decode(
        self.params, self.slots, index, on, np.full(bucket, self.limit if room is None else room, np.int32),
        all_keys[np.minimum(index, self.size - 1)], sampling.settings(bucket) if settings is None else settings, **kw)
    out = jax.device_get(out)
    for i, slot in enumerate(rows):
      self.held[slot] = self.held[slot] + out.ids[i, :out.count[i]].tolist()
    return out


def prompts(*lengths):
  draw = np.random.default_rng(7)
  return {i: draw.integers(8, VOCAB, n).tolist() for i, n in enumerate(lengths)}


def agree(run, slot, out, i, start, temperature, atol, stop=STOP, **kw):
  """What `decode` said of row i, whose turn begins at `start` of its slot, is what a forward pass says."""
  n = out.count[i]
  logp, entropy = naive(np.array(run.held[slot][:start + n]), temperature, **kw)
  np.testing.assert_allclose(out.logp[i, :n], logp[start:], atol=atol)
  np.testing.assert_allclose(out.entropy[i, :n], entropy[start:], atol=atol)
  np.testing.assert_array_equal(out.sampler_logp[i], out.logp[i])
  assert n and not out.logp[i, n:].any() and not out.entropy[i, n:].any() and not out.ids[i, n:].any()
  assert out.stopped[i] == (out.ids[i, n - 1] in stop) and not np.isin(out.ids[i, :n - 1], stop).any()


@pytest.mark.parametrize('kw, bucket, atol', [
    (dict(), 3, 1e-4), (dict(kv_heads=2, qkv_bias=True, qk_norm=True, tied=False), 4, 1e-4),
    (dict(dtype='bfloat16', layers=1), 4, .15)], ids=('tied', 'grouped', 'bfloat16'))
def test_logp_across_turns(kw, bucket, atol):
  """Unequal prompts, two turns with an observation between, a row that sits out, buckets smaller and as large as the slots."""
  run = Run(4, **kw)
  run.feed(prompts(5, 2, 6, 4), 4)
  settings = sampling.settings(4, temperature=.7)
  starts = [len(h) for h in run.held]
  out = run.draw([2, 0, 1, 3], 4, active=[True, True, False, True], settings=settings)
  for i, slot in ((0, 2), (1, 0), (3, 3)):
    agree(run, slot, out, i, starts[slot], .7, atol, **kw)
  assert out.count[2] == 0 and not out.stopped[2] and not out.logp[2].any()
  run.feed({3: [9, 10, 11], 1: [12]}, bucket)
  starts = [len(h) for h in run.held]
  out = run.draw([3, 1], bucket, seed=1, settings=sampling.settings(bucket, temperature=.7))
  for i, slot in ((0, 3), (1, 1)):
    agree(run, slot, out, i, starts[slot], .7, atol, **kw)
  assert out.count[2] == 0
  np.testing.assert_array_equal(run.slots.length, [len(h) for h in run.held])


def test_fork():
  """Slot 0 gets 4 tokens of slot 2, slot 3 gets 3 of slot 0; 1 gets all of 2, its logits too; 2 stays."""
  run = Run(4)
  run.feed(prompts(5, 2, 6, 4), 4)
  run.draw(range(4), 4)
  before = [list(h) for h in run.held]
  length = np.array([4, len(before[2]), len(before[2]), 3], np.int32)
  run.slots = run.s.fork(run.slots, np.array([2, 2, 0, 0], np.int32), np.array([4, length[1], 0, 3], np.int32),
                         np.array([0, 2, 2, 3], np.int32))
  run.slots = dataclasses.replace(run.slots, length=jnp.array(length))
  run.held = [before[s][:n] for s, n in zip((2, 2, 2, 0), length)]
  run.feed({0: [9, 12], 3: [17]}, 3)
  starts = [len(h) for h in run.held]
  out = run.draw(range(4), 4, seed=2)
  for slot in range(4):   # 1 and 2 are whole: they may speak at once
    agree(run, slot, out, slot, starts[slot], 1., 1e-4)


@pytest.mark.parametrize('bucket', [3, 4])
def test_sharing(bucket):
  """Slots 3 and 0 begin with what slot 1 holds, 6 and 4 tokens; in their own slots stands something else."""
  run = Run(4, width=24)
  run.feed({1: prompts(0, 6)[1]}, 3)
  run.feed({0: [9] * 4, 3: [10] * 6}, 3)
  run.held[0], run.held[3] = run.held[1][:4], list(run.held[1])
  share = lambda rows, window: (sampling.Sharing(
      np.array([2, 1], np.int32), np.array([[0, 0], [rows[3], rows[0]]], np.int32),
      np.array([{3: 2, 0: 3}.get(s, 0) for s in sorted(rows, key=rows.get)] + [0] * (bucket - len(rows)), np.int32),
      np.array([{3: 6, 0: 4}.get(s, 0) for s in sorted(rows, key=rows.get)] + [0] * (bucket - len(rows)), np.int32)), np.int32(window))
  sharing, window = share({3: 0, 0: 1}, 4)
  run.feed({3: [11, 12], 0: [13]}, bucket, sharing=sharing, window=window, width=8, reach=8)
  starts = [len(h) for h in run.held]
  sharing, window = share({3: 0, 1: 1, 0: 2}, 0)
  out = run.draw([3, 1, 0], bucket, sharing=sharing, window=window, width=16, reach=6)
  for i, slot in enumerate((3, 1, 0)):
    agree(run, slot, out, i, starts[slot], 1., 1e-4)
  np.testing.assert_array_equal(run.slots.length, [len(h) for h in run.held])


def test_score():
  """Log-probabilities of fed ids: the first from the slot's own logits, over two chunks and after a drawn turn."""
  run = Run(4)
  run.feed(prompts(5, 2, 6, 4), 4)
  run.draw(range(4), 4)
  starts = [len(h) for h in run.held]
  first = run.feed({1: [9, 3, 11, 4, 8, 8], 2: [12, 13]}, 3, score=True)
  second = run.feed({1: [5, 6]}, 3, score=True)
  logp = naive(np.array(run.held[1]), 1.)[0][starts[1]:]
  np.testing.assert_allclose(np.concatenate([first[0], second[0, :2]]), logp, atol=1e-4)
  np.testing.assert_allclose(first[1, :2], naive(np.array(run.held[2]), 1.)[0][starts[2]:], atol=1e-4)
  assert not first[1, 2:].any() and not first[2].any() and not second[1:].any()


def test_neighbours():
  """A row draws the same ids with other neighbours, in another bucket, another slot, among more slots, in several calls."""
  text, key = prompts(6)[0], keys(1, 5)[0]

  def alone(slots, slot, others, bucket, limit=5, calls=1):
    run = Run(slots, limit=limit, stop=())
    run.feed({**{o: prompts(0, 5, 3)[1 + i % 2] for i, o in enumerate(others)}, slot: text}, max(bucket, 1 + len(others)))
    all_keys = keys(slots, 9).copy()
    all_keys[slot] = key
    hot = sampling.settings(bucket, temperature=4.)
    turns = [run.draw([slot, *others], bucket, key=all_keys, settings=hot) for _ in range(calls)]
    return run.held[slot][len(text):], sum((t.logp[0, :t.count[0]].tolist() for t in turns), [])
  ids, logp = alone(4, 0, [1, 2, 3], 4, limit=12)
  assert len(ids) == 12 and len(set(ids)) > 5
  for case in (alone(4, 2, [0], 3, limit=12), alone(9, 7, [4], 3, limit=12), alone(4, 0, [3], 4, limit=12),
               alone(4, 0, [1, 2, 3], 4, calls=3)):
    assert case[0][:12] == ids
    np.testing.assert_allclose(case[1][:12], logp, atol=1e-5)


def test_others_untouched():
  """Rows that are not named, do not take part or have no room keep their tables, their length and their logits."""
  run = Run(4)
  run.feed(prompts(5, 2, 6, 4), 4)
  old = jax.device_get(run.slots)
  out = run.draw([0, 1, 3], 3, active=[True, False, True], room=np.array([5, 5, 0]))
  new = jax.device_get(run.slots)
  assert out.count[0] and not out.count[1:].any()
  for before, after in zip(jax.tree.leaves(old), jax.tree.leaves(new)):
    np.testing.assert_array_equal(after[1:], before[1:])
  n, stop = old.length[0], new.length[0]
  for before, after in zip(jax.tree.leaves(old.cache), jax.tree.leaves(new.cache)):   # and only new tokens are written
    tokens = [np.moveaxis(x[0], list(x.shape).index(32) - 1, 0) for x in (before, after)]
    assert (tokens[1][n:stop] != tokens[0][n:stop]).any(axis=-1).all()
    np.testing.assert_array_equal(*(np.delete(x, slice(n, stop), 0) for x in tokens))
  run.feed({2: [9], 0: []}, 3)
  last = jax.device_get(run.slots)
  for before, after in zip(jax.tree.leaves(new), jax.tree.leaves(last)):
    np.testing.assert_array_equal(after[[0, 1, 3]], before[[0, 1, 3]])
  assert last.length[2] == new.length[2] + 1


def test_room():
  run = Run(4, width=10, limit=12, stop=())
  run.feed(prompts(6, 3, 6, 1), 4)
  out = run.draw(range(4), 4, room=np.array([12, 3, 2, 0]))
  np.testing.assert_array_equal(out.count, [4, 3, 2, 0])      # slot 0 is full before its room is used up
  assert not out.stopped.any()
  np.testing.assert_array_equal(run.slots.length, [10, 6, 8, 1])
  assert not run.draw([0], 3).count.any()
  out = run.draw([1, 2], 3, seed=1)                           # a turn cut short goes on, though its neighbour drew longer
  agree(run, 1, out, 0, 6, 1., 1e-4, stop=())


def test_width():
  """Reading only part of the cache changes nothing as long as what every named slot holds is in it."""
  runs = []
  for width in (None, 8):
    run = Run(4)
    run.feed(prompts(5, 2, 6, 4), 4, width=width)
    runs.append((run, run.draw([0, 1, 3], 3, width=width)))
  (a, x), (b, y) = runs
  assert a.held == b.held
  np.testing.assert_allclose(x.logp, y.logp, atol=1e-5)


def test_greedy():
  """Temperature 0 draws the most probable id; its logp is at temperature 1. Rows may differ."""
  run = Run(4)
  run.feed(prompts(5, 2, 6, 4), 4)
  starts = [len(h) for h in run.held]
  settings = sampling.settings(4)._replace(temperature=np.array([0, 1, 0, 0], np.float32))
  out = run.draw(range(4), 4, settings=settings)
  for slot in range(4):
    agree(run, slot, out, slot, starts[slot], 1., 1e-4)
  for slot in (0, 2, 3):
    ids = np.array(run.held[slot])
    row = np.pad(ids, (0, 32 - len(ids))), np.arange(32), np.full(32, 32)
    best = np.asarray(whole()(model()[1], *(x[None].astype(np.int32) for x in row)))[0].argmax(-1)
    np.testing.assert_array_equal(ids[starts[slot]:], best[starts[slot] - 1:len(ids) - 1])


def many(settings, rows=6000, vocab=75, **kw):
  """The first id of `rows` slots with one logit row and different keys, and those logits."""
  policy = transformer(vocab=vocab, layers=1, dim=4, heads=1)
  s = sampling.make(policy, limit=1, stop_ids=())
  logits = np.random.default_rng(1).normal(size=vocab).astype(np.float32) * 1.5
  logits[[10, 20]] = logits[[30, 40]]     # ties
  slots = sampling.Slots(cache=s.empty(rows, 2).cache, length=jnp.zeros(rows, jnp.int32),
                         logits=jnp.tile(logits[None], (rows, 1)))
  params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), jax.eval_shape(policy.init, jax.random.key(0)))
  _, out = s.decode(params, slots, np.arange(rows, dtype=np.int32), np.ones(rows, bool), np.ones(rows, np.int32),
                    keys(rows, 3), settings, **kw)
  return logits.astype(np.float64), jax.device_get(out)


def test_distribution():
  """Chi-square of 6,000 draws from 75 ids at two temperatures (75 is no multiple of the block size)."""
  temperature = np.where(np.arange(6000) < 3000, .8, 2.).astype(np.float32)
  logits, out = many(sampling.settings(6000)._replace(temperature=temperature))
  for half, t in ((slice(0, 3000), .8), (slice(3000, 6000), 2.)):
    p = np.exp(logits / t)
    p /= p.sum()
    seen = np.bincount(out.ids[half, 0], minlength=75)
    common = p * 3000 >= 5
    observed = np.append(seen[common], seen[~common].sum())
    assert stats.chisquare(observed, 3000 * np.append(p[common], p[~common].sum())).pvalue > 1e-3
    np.testing.assert_allclose(out.logp[half, 0], np.log(p)[out.ids[half, 0]], atol=1e-5)
    np.testing.assert_allclose(out.entropy[half, 0], -(p * np.log(p)).sum(), atol=1e-5)


def kept(p, top_k, top_p, min_p):
  """The ids that stay, one truncation after the other, by loops; as probable as the last one that stays: stays."""
  order = sorted(range(len(p)), key=lambda i: -p[i])
  if top_k:
    order = [i for i in order if p[i] >= p[order[top_k - 1]]] if len(order) > top_k else order
  total, held, stay = sum(p[i] for i in order[:top_k or None]), 0., []
  for i in order[:top_k or None]:
    if held < top_p * total:
      stay.append(i)
    held += p[i]
  floor = max(min(p[i] for i in stay), min_p * max(p))
  return {i for i in range(len(p)) if p[i] >= floor}


def test_truncation():
  cases = [dict(top_k=1), dict(top_k=7), dict(top_p=.6), dict(top_p=1e-6), dict(min_p=.2), dict(top_k=500), dict(),
           dict(top_k=20, top_p=.8, min_p=.05), dict(temperature=.5, top_p=.9), dict(temperature=0., top_k=5)]
  rows = 6000 // len(cases)
  columns = [np.concatenate(c) for c in zip(*(sampling.settings(rows, **c) for c in cases))]
  logits, out = many(sampling.Sampling(*columns), truncated=True)
  for n, case in enumerate(cases):
    part, t = slice(n * rows, (n + 1) * rows), case.get('temperature', 1.)
    p = np.exp(logits / (t or 1.))
    p /= p.sum()
    stay = kept(p, case.get('top_k', 0), case.get('top_p', 1.), case.get('min_p', 0.))
    ids = out.ids[part, 0]
    assert set(ids) <= ({int(p.argmax())} if t == 0 else stay)
    share = np.array([p[i] * (i in stay) for i in range(75)])
    share /= share.sum()
    np.testing.assert_allclose(out.logp[part, 0], np.log(p[ids]), atol=1e-5)
    np.testing.assert_allclose(out.sampler_logp[part, 0], np.log(share[ids]), atol=1e-5)
    if t:
      seen, common = np.bincount(ids, minlength=75), share * rows >= 5
      if common.sum() > 1:
        observed = np.append(seen[common], seen[~common].sum() + 1e-9)
        expected = rows * np.append(share[common], share[~common].sum()) + 1e-9
        assert stats.chisquare(observed, expected, sum_check=False).pvalue > 1e-3


def test_compilations():
  """One program a bucket, whatever the rows, the settings and the parameters."""
  policy, params = model()
  run = Run(4)
  run.s = sampling.make(policy, limit=5, stop_ids=STOP)
  for scale in (1., 1.5):
    run.params = jax.tree.map(lambda x, scale=scale: x * np.float32(scale), params)
    for bucket in (4, 3):
      for seed in range(2):
        run.feed({seed: [9] * (seed + 1)}, bucket)
        run.draw([seed], bucket, seed=seed, room=2 + seed, settings=sampling.settings(bucket, temperature=.5 * seed))
  assert run.s.extend._cache_size() == 2 and run.s.decode._cache_size() == 2


def test_bfloat16_cache():
  run = Run(4)
  run.slots = sampling.empty(model()[0], 4, 32, dtype='bfloat16')
  run.feed(prompts(5, 2, 6, 4), 4)
  starts = [len(h) for h in run.held]
  out = run.draw(range(4), 4)
  assert all(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(run.slots.cache))
  for slot in range(4):
    agree(run, slot, out, slot, starts[slot], 1., .05)


def test_too_many_rows():
  with pytest.raises(ValueError, match='5 rows of 4 slots'):
    Run(4).feed({}, 5)
