"""Packing: every column, padding, the choice of buckets, first fit, and that it costs milliseconds."""

import gc
import random
import time

import jax
import numpy as np
import pytest

from rlx.grow import labels
from rlx.learn import pack as packing
from rlx.learn import rows
from rlx.learn.pack import Bucket, pack
from tests import trees
from tests.trees import group, step

WIDE = Bucket(4, 16, 16, 4)


def two_prompts():
  """A fork with a missing verdict, and a two-step rollout; tokens 1.. are drawn, 90.. read, 50 is forced."""
  think = np.array([True, False])
  a = group([step(-1, [1, 2], [90, 91], reward=dict(task=.5), label=dict(state='x', turn=1), role=dict(think=think)),
             step(0, [3], [92], end=1, reward=dict(task=1., judge=None), label=dict(state='y', turn=2), value=dict(v=.25)),
             step(0, [50, 4], [93, 94], end=2, sampled=[0, 1], reward=dict(judge=2.), label=dict(state='x'))], 'a', prompt=dict(p=.75))
  b = group([step(-1, [5], [95], label=dict(state='x', turn=2)), step(0, [6], [96], end=1, reward=dict(task=-1.), label=dict(state='z'))], 'b')
  return [a, b]


def test_columns():
  """Every number of the two tables, typed."""
  made, = pack(two_prompts(), rows=rows.paths, buckets=(Bucket(3, 8, 7, 3),), channels=('format',), roles=('think',),
               streams=('entropy', 'version'), values=('u',), judged=('format',), prompt=('q',), label_names=('state', 'turn', 'source'),
               intern=labels.intern)
  n, t = made.batch.nodes, made.batch.tokens
  assert made.bucket == Bucket(3, 8, 7, 3) and made.first == [0, 3] and made.dropped == 0
  assert made.groups[0].task.id == 'a' and made.padding == pytest.approx(1 - 18 / 24)
  assert n.parent.tolist() == [-1, 0, 0, -1, 3, -1, -1]
  assert n.group.tolist() == [0, 0, 0, 1, 1, 0, 0]
  assert n.valid.tolist() == [True] * 5 + [False] * 2
  assert n.end.tolist() == [0, 1, 2, 0, 1, 0, 0]
  assert {k: v.tolist() for k, v in n.reward.items()} == dict(
      format=[0] * 7, judge=[0, 0, 2, 0, 0, 0, 0], task=[.5, 1, 0, 0, -1, 0, 0])
  assert {k: v.tolist() for k, v in n.judged.items()} == dict(
      format=[True] * 7, judge=[True, False, True, True, True, True, True])
  assert {k: v.tolist() for k, v in n.value.items()} == dict(u=[0] * 7, v=[0, .25, 0, 0, 0, 0, 0])
  assert {k: v.tolist() for k, v in n.label.items()} == dict(
      state=[0, 1, 0, 0, 2, 0, 0], turn=[1, 2, 0, 2, 0, 0, 0], source=[0] * 7)
  assert {k: v.tolist() for k, v in made.batch.prompt.items()} == dict(q=[0, 0, 0], p=[.75, 0, 0])
  # sequences, longest first: a's second path (8), a's first (6 tokens), b's (4)
  assert t.ids.tolist() == [[90, 91, 1, 2, 93, 94, 50, 4], [90, 91, 1, 2, 92, 3, 0, 0], [95, 5, 96, 6, 0, 0, 0, 0]]
  assert t.node.tolist() == [[-1, -1, 0, 0, 2, 2, 2, 2], [-1, -1, 0, 0, 1, 1, -1, -1], [-1, 3, 4, 4, -1, -1, -1, -1]]
  assert t.segment.tolist() == [[0] * 8, [0] * 6 + [-1] * 2, [0] * 4 + [-1] * 4]
  assert t.position.tolist() == [list(range(8)), [*range(6), 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]]
  sampled = [[0, 0, 1, 1, 0, 0, 0, 1], [0, 0, 1, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0, 0]]
  np.testing.assert_array_equal(t.sampled, sampled)
  np.testing.assert_array_equal(t.mask, [[0, 0, 0, 0, 0, 0, 0, 1], sampled[1], sampled[2]])   # the first path owns step 0
  np.testing.assert_array_equal(t.logp, np.where(sampled, trees.logp(t.ids), 0))
  assert t.role['think'].tolist() == [[False, False, True, False, False, False, False, False]] * 2 + [[False] * 8]
  np.testing.assert_allclose(t.stream['entropy'][t.sampled], t.ids[t.sampled] / 7, rtol=1e-6)
  assert not t.stream['version'].any() and not t.stream['entropy'][t.segment < 0].any()
  f32, i32 = np.dtype('float32'), np.dtype('int32')
  kinds = {jax.tree_util.keystr(path): x.dtype for path, x in jax.tree_util.tree_leaves_with_path(made.batch)}
  for path, kind in kinds.items():
    want = bool if any(w in path for w in ('valid', 'judged', 'sampled', 'mask', 'role')) else f32 if any(
        w in path for w in ('reward', 'value', 'prompt', 'logp', 'stream')) else i32
    assert kind == want, path


def test_a_column_is_there_though_nothing_wrote_it():
  """The shape of a batch must not depend on what happened in it."""
  names = dict(channels=('task', 'judge'), values=('v',), judged=('judge',), prompt=('p',), label_names=('state', 'turn'), roles=('think',),
               streams=('entropy',))
  kw = dict(rows=rows.paths, buckets=(WIDE,), labels=dict(text=lambda nodes: [n.text for n in nodes]), intern=labels.intern, **names)
  one, = pack(two_prompts(), **kw)
  other, = pack([group([step(-1, [1], end=1)])], **kw)
  assert jax.tree.structure(one.batch) == jax.tree.structure(other.batch)
  assert jax.tree.map(np.shape, one.batch) == jax.tree.map(np.shape, other.batch)


def test_labels_without_an_intern():
  """Integers and flags stand for themselves, None for 0; anything else is numbered, and a step without a label equals no other."""
  def of(values):
    nodes = [step(-1, [i], end=1) for i in range(1, 1 + len(values))]
    made, = pack([group(nodes)], rows=rows.paths, buckets=(Bucket(1, 16, 8, 1),), labels=dict(x=lambda _: values))
    return made.batch.nodes.label['x'][:len(values)].tolist()
  assert of([5, None, True, 0]) == [5, 0, 1, 0]
  got = of(['a', None, 'b', 'a', None, ('b',)])
  assert got[0] == got[3] and len(set(got)) == 5


def test_prompts_without_a_row_still_have_steps():
  made, = pack([group([step(-1, [1], end=3)]), group([])], rows=rows.paths, buckets=(WIDE,))
  assert made.batch.nodes.valid.sum() == 1 and not made.batch.tokens.mask.any() and made.padding == 1 and made.dropped == 0
  assert pack([], rows=rows.paths, buckets=(WIDE,)) == []


# ---- buckets -----------------------------------------------------------------------------------------------------------

def lines(*lengths, each=1, name='p'):
  """Prompts of one-step episodes with so many tokens, `each` to a prompt."""
  nodes = [step(-1, range(1, n + 1), end=1) for n in lengths]
  return [group(nodes[i:i + each], f'{name}{i}') for i in range(0, len(nodes), each)]


def buckets_of(groups, *buckets, **kw):
  return [(p.bucket, len(p.groups), p.dropped) for p in pack(groups, rows=rows.paths, buckets=buckets, **kw)]


def test_the_smallest_bucket_that_holds_a_batch():
  small, middle, large = Bucket(1, 8, 8, 8), Bucket(2, 8, 8, 8), Bucket(4, 8, 8, 8)
  for lengths, want in (((4, 4), small), ((4, 4, 4), middle), ((8, 8, 8), large)):
    assert buckets_of(lines(*lengths), large, small, middle) == [(want, len(lengths), 0)]
  assert buckets_of(lines(*[1] * 3), small, Bucket(1, 8, 2, 8), Bucket(1, 8, 8, 2))[0][0] == small, 'steps and prompts count too'


def test_small_means_few_tokens_not_few_rows():
  wide, tall = Bucket(2, 64, 32, 32), Bucket(8, 8, 32, 32)
  assert buckets_of(lines(4, 4), wide, tall) == [(tall, 2, 0)]
  assert buckets_of(lines(4, 40), tall, wide) == [(wide, 2, 0)]


def test_a_long_sequence_goes_to_the_wide_bucket_though_another_holds_more():
  """Fourteen short prompts and a long one: the largest bucket cannot hold it, so the batch is split rather than the sequence lost."""
  wide, tall = Bucket(1, 32, 32, 32), Bucket(8, 8, 32, 32)
  assert buckets_of(lines(*[8] * 7, 30), wide, tall) == [(tall, 7, 0), (wide, 1, 0)]


def test_more_than_the_largest_bucket_makes_several_batches():
  """As few as will do, prompts in order and never in two."""
  groups = lines(*[4] * 20, each=2)
  for bucket, counts in ((Bucket(3, 8, 99, 99), [3, 3, 3, 1]), (Bucket(9, 8, 7, 99), [3, 3, 3, 1]), (Bucket(9, 8, 99, 4), [4, 4, 2])):
    made = pack(groups, rows=rows.paths, buckets=(Bucket(1, 8, 2, 1), bucket))
    assert [len(p.groups) for p in made] == counts
    assert [g for p in made for g in p.groups] == groups
    for p in made:
      assert set(p.batch.nodes.group[p.batch.nodes.valid]) == set(range(len(p.groups)))
      assert p.batch.tokens.mask.sum() == 8 * len(p.groups)


def test_sequences_that_are_too_long_are_counted():
  groups = lines(4, 9, 8)
  assert buckets_of(groups, Bucket(2, 8, 9, 9)) == [(Bucket(2, 8, 9, 9), 3, 1)]
  made, = pack(groups, rows=rows.paths, buckets=(Bucket(2, 8, 9, 9),))
  assert made.batch.tokens.mask.sum() == 12 and made.batch.nodes.valid.sum() == 3
  assert buckets_of(lines(9), Bucket(2, 8, 9, 9)) == [(Bucket(2, 8, 9, 9), 1, 1)]


def test_actions_a_row():
  """Three sequences of 4 tokens, 2 of them drawn, fit one row of 12; with at most 4 drawn tokens a row they need two."""
  nodes = [step(-1, [1, 2], [90, 91], end=1) for _ in range(3)]
  one, two = (pack([group(nodes)], rows=rows.paths, buckets=(Bucket(2, 12, 8, 8, actions),))[0] for actions in (6, 4))
  assert (one.batch.tokens.segment >= 0).any(1).tolist() == [True, False]
  assert two.batch.tokens.sampled.sum(1).tolist() == [4, 2]
  assert buckets_of([group(nodes)], Bucket(2, 12, 8, 8, 1))[0][2] == 3, 'a sequence with more drawn tokens than a row may have is dropped'
  # a shared prefix is drawn too: its logits are needed in every row
  fork = group([step(-1, [1, 2, 3]), step(0, [4], end=1), step(0, [5], end=1)])
  assert pack([fork], rows=rows.paths, buckets=(Bucket(2, 12, 8, 8, 4),))[0].batch.tokens.sampled.sum(1).tolist() == [4, 4]


def test_prompts_that_no_bucket_holds():
  with pytest.raises(ValueError, match="prompt 'p0' has 5 steps, the largest bucket holds 4: raise `nodes`"):
    pack(lines(*[1] * 5, each=5), rows=rows.paths, buckets=(Bucket(9, 8, 4, 9),))
  with pytest.raises(ValueError, match="prompt 'p0' alone has 5 rows of up to 8 tokens, the largest bucket is .*: raise its `rows`"):
    pack(lines(*[8] * 5, each=5), rows=rows.paths, buckets=(Bucket(4, 8, 9, 9),))


def test_a_shared_step_is_trained_where_its_owner_is_too_long():
  """0 - 1 (too long) and 0 - 2: step 0 is trained in the second row, once."""
  fork = group([step(-1, [1, 2]), step(0, range(20), end=1), step(0, [5], end=1), step(0, [6, 7], end=1)])
  made, = pack([fork], rows=rows.paths, buckets=(Bucket(3, 10, 8, 8),))
  t = made.batch.tokens
  assert made.dropped == 1 and np.bincount(t.node[t.mask], minlength=4).tolist() == [2, 0, 1, 2]


def test_rows_of_one_prompt_only():
  groups = lines(2, 2, 2, 2, 2, 2, each=3)
  mixed, = pack(groups, rows=rows.paths, buckets=(Bucket(4, 8, 9, 9),))
  assert len({*mixed.batch.nodes.group[mixed.batch.tokens.node[0, :8]]}) == 2
  apart, = pack(groups, rows=rows.paths, buckets=(Bucket(4, 8, 9, 9),), unit='group')
  held = [set(apart.batch.nodes.group[row[row >= 0]].tolist()) for row in apart.batch.tokens.node]
  assert held == [{0}, {1}, set(), set()]


@pytest.mark.parametrize('unit', ['row', 'group', 'path'])
@pytest.mark.parametrize('seed', range(5))
def test_first_fit_never_overlaps(seed, unit):
  """Every token of every sequence stands somewhere, sequences are contiguous, numbered from the left, and positions restart."""
  rng = random.Random(seed)
  groups = []
  for p in range(12):
    nodes = [step(-1, range(1, 1 + rng.randrange(1, 30)), range(90, 90 + rng.randrange(5)), end=1) for _ in range(rng.randrange(1, 6))]
    groups.append(group(nodes, str(p)))
  bucket = Bucket(60 if unit == 'path' else 40, 40, 99, 99, 36)
  made, = pack(groups, rows=rows.paths, buckets=(bucket,), unit=unit)
  t = made.batch.tokens
  want = sorted((i, n.context + n.ids) for i, n in enumerate(n for g in groups for n in g.nodes))
  got = []
  for r in range(bucket.rows):
    row = t.segment[r]
    count = row.max() + 1
    assert row[row >= 0].tolist() == sorted(row[row >= 0]) and (np.diff(np.flatnonzero(row >= 0)) == 1).all()
    assert t.sampled[r].sum() <= 36
    for s in range(count):
      at = np.flatnonzero(row == s)
      assert at.size and t.position[r, at].tolist() == list(range(len(at)))
      got.append((int(t.node[r, at[-1]]), t.ids[r, at].tolist()))
  assert sorted(got) == want
  assert made.padding == pytest.approx(1 - sum(len(x) for _, x in want) / (bucket.rows * 40))
  if unit == 'path':
    assert (t.segment.max(1) <= 0).all(), 'each step is a path of its own here'
  # first fit: a sequence stands in no later row than the first that had room for it
  if unit == 'row':
    firsts = [np.flatnonzero(t.segment[r] == 0).size for r in range(40)]
    assert firsts == sorted(firsts, reverse=True)


def test_packing_takes_milliseconds():
  """A step of the quickstart: 128 episodes of 4 steps, 60 tokens each; as 16 prompts and as 128. Best of five, of this thread's time,
  against 20,000 small lists put into a dict (2 to 4 ms), without the collector, to whom the suite's garbage matters more."""
  rng = random.Random(0)
  def episode(first):
    word = lambda low, high: list(range(rng.randrange(low, high)))
    return [step(first + k - 1 if k else -1, word(4, 13), word(4, 10), end=int(k == 3), label=dict(state=str(k)), reward=dict(task=1.),
                 role=dict(action=np.ones(12, bool)[:0])) for k in range(4)]
  for prompts in (16, 128):
    each = 128 // prompts
    groups = [group([n for e in range(each) for n in episode(4 * e)]) for _ in range(prompts)]
    for g in groups:
      for n in g.nodes:
        n.role['action'] = np.ones(len(n.ids), bool)
    spent, plain = [], []
    for _ in range(5):
      gc.disable()
      began = time.thread_time()
      pairs = {i: [i, i + 1] for i in range(20_000)}
      plain.append(time.thread_time() - began)
      began = time.thread_time()
      made = pack(groups, rows=rows.paths, buckets=(Bucket(8, 128, 128, 32, 64), Bucket(80, 128, 1024, 128, 64)), channels=('task',),
                  roles=('action',), streams=('entropy', 'sampler_logp'), label_names=('source', 'state'), intern=labels.intern)
      spent.append(time.thread_time() - began)
      gc.enable()
    assert len(made) == 1 and len(pairs) == 20_000 and min(spent) < 4 * min(plain), (spent, plain)


def test_the_search_for_a_split_is_short(monkeypatch):
  """Bisection: not one attempt a prompt."""
  calls = []
  choose = packing._choose
  monkeypatch.setattr(packing, '_choose', lambda *a: calls.append(1) or choose(*a))
  made = pack(lines(*[8] * 256), rows=rows.paths, buckets=(Bucket(200, 8, 999, 999),))
  assert [len(p.groups) for p in made] == [200, 56] and len(calls) < 16
