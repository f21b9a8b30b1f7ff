"""The jitted functions of a phase, and which rows an update sees."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, config, tree
from rlx.learn import mesh as meshes
from rlx.learn import objective, pack, rows, state
from rlx.learn import step as steps
from rlx.types import Loss, Model, Stateful
from tests.policies import bag
from tests.trees import group, step

POLICY = bag()
BUCKETS = (pack.Bucket(4, 12, 16, 8), pack.Bucket(8, 12, 32, 8))


# ---- which rows --------------------------------------------------------------------------------------------------------

def split(alive, groups, size, unit='row', compact=True, seed=(0,)):
  parts = steps.minibatches(np.asarray(alive, bool), np.asarray(groups), size=size, unit=unit, compact=compact, seed=seed)
  assert all(p.shape == (size,) and p.dtype == np.int32 for p in parts)
  return [sorted(p[p >= 0].tolist()) for p in parts]


@pytest.mark.parametrize('unit', ['row', 'group'])
@pytest.mark.parametrize('seed', range(8))
def test_every_row_once_and_balanced(unit, seed):
  rng = np.random.default_rng(seed)
  groups = np.repeat(np.arange(12), rng.integers(1, 4, 12))
  groups = np.concatenate([rng.permutation(groups), [-1, -1]])
  alive = (groups >= 0) & (rng.random(len(groups)) < .8)
  for compact in (True, False):
    want = np.flatnonzero(alive if compact else groups >= 0).tolist()
    parts = split(alive, groups, 5, unit, compact, (seed,))
    assert sorted(sum(parts, [])) == want
    sizes = [len(p) for p in parts]
    if unit == 'row':
      assert len(parts) == -(-len(want) // 5) and max(sizes) - min(sizes) <= 1
    else:
      assert len(parts) <= -(-len(want) // 5) + 1 and max(sizes) - min(sizes) <= 3
      whole = [{int(groups[r]) for r in p} for p in parts]
      assert sum(map(len, whole)) == len(set().union(*whole)), 'a prompt in two minibatches'


def test_orders_are_drawn_from_the_seed():
  every = np.ones(20, bool)
  for unit, groups in (('row', np.arange(20)), ('group', np.arange(20) // 2)):
    a, b, c = (split(every, groups, 4, unit, seed=s) for s in ((1, 2), (1, 2), (1, 3)))
    assert a == b != c and [0, 1, 2, 3] not in c


def test_few_rows():
  assert split([0, 0], [0, 1], 4) == [] and split([0, 0], [-1, -1], 4, compact=False) == []
  assert split([1, 0], [0, 1], 4) == [[0]] and split([1, 0], [0, 1], 4, compact=False) == [[0, 1]]


def test_prompts_stay_together_in_as_few_minibatches_as_will_do():
  """Units of 4, 4, 2 and 2 rows: two minibatches of six, in whatever order they are drawn."""
  groups = [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
  for seed in range(6):
    parts = split(np.ones(12), groups, 6, 'group', seed=(seed,))
    assert [len(p) for p in parts] == [6, 6]
  assert len(split(np.ones(6), [0, 0, 1, 1, 2, 2], 3, 'group')) == 3
  with pytest.raises(ValueError, match="has 3 rows, a minibatch 2: raise minibatch, or set unit='row'"):
    split(np.ones(4), [0, 1, 1, 1], 2, 'group')


def test_rows_that_share_a_prompt_belong_together():
  """Packing puts short sequences of other prompts behind a long one: rows that hold the same prompt are linked."""
  def packed(*lengths, **kw):
    groups = [group([step(-1, range(1, n + 1), end=1) for n in ns]) for ns in lengths]
    return pack.pack(groups, rows=rows.paths, buckets=(pack.Bucket(6, 10, 32, 8),), **kw)[0]
  assert steps.row_groups(packed((9, 9), (8, 8))).tolist() == [0, 0, 1, 1, -1, -1]
  linked = packed((9, 4), (6, 8), (10,))          # the row [6 | 4] holds both
  assert steps.row_groups(linked).tolist() == [2, 0, 0, 0, -1, -1]
  assert steps.row_groups(packed((9, 4), (6, 8), (10,), unit='group')).tolist() == [2, 0, 1, 1, 0, -1]
  assert steps.row_groups(packed(())).tolist() == [-1] * 6


def test_rows_of_a_path_belong_together():
  """One row a step: the steps of a rollout, and of all that forked from its first step, are one unit."""
  made = group([step(-1, [1, 2, 3]), step(0, [4, 5], end=1), step(0, [6, 7, 8], end=1), step(-1, [9], end=1)])
  whole, = pack.pack([made, made], rows=rows.steps, buckets=(pack.Bucket(12, 10, 32, 8),), unit='path')
  node = whole.batch.tokens.node
  held = [set(n[n >= 0].tolist()) for n in node]
  units = steps.row_groups(whole, 'path')
  together = {}
  for nodes, u in zip(held, units.tolist(), strict=True):
    together.setdefault(u, set()).update(nodes)
  assert together.pop(-1, set()) == set() and sorted(map(sorted, together.values())) == [[0, 1, 2], [3], [4, 5, 6], [7]]
  assert set(steps.row_groups(whole, 'row').tolist()) <= {0, -1}
  with pytest.raises(ValueError, match="a path, with those it shares rows with, has 2 rows, a minibatch 1"):
    split(np.ones(2), [0, 0], 1, 'path')


def test_means_over_updates():
  got = steps.averaged([{'loss/main': 1., 'tokens': 30., 'skipped': 0.}, {'loss/main': 3., 'tokens': 10., 'skipped': 1.},
                        {'critic/loss/main': 5., 'critic/loss/tokens': 1., 'critic/tokens': 7., 'critic/skipped': 1.},
                        {'critic/loss/main': 7., 'critic/loss/tokens': 2., 'critic/tokens': 21., 'critic/skipped': 1.}])
  assert got == {'loss/main': 1., 'skipped': 1., 'critic/loss/main': 6.5, 'critic/loss/tokens': 1.75, 'critic/skipped': 2., 'updates': 4.}
  assert not any(steps.averaged([]).values())
  got = steps.averaged([{'loss/main': 2., 'tokens': 3., 'skipped': 0.}, {'loss/main': np.nan, 'tokens': 3., 'skipped': 1.}])
  assert got == {'loss/main': 2., 'skipped': 1., 'updates': 2.}


# ---- one learner's work ------------------------------------------------------------------------------------------------

def prompts(count, seed=0, *, end=1):
  """Two episodes of two steps a prompt, the first right; ids drawn."""
  rng = np.random.default_rng(seed)
  word = lambda n: rng.integers(1, 64, n).tolist()
  out = []
  for p in range(count):
    nodes = []
    for e in range(2):
      nodes.append(step(-1, word(2), word(2)))
      nodes.append(step(len(nodes) - 1, word(2), word(1), end=end, reward=dict(task=float(not e))))
    for n in nodes:
      n.logp[:] = rng.normal(size=2) * .1 - 4
    out.append(group(nodes, str(p), index=p))
  return out


def packed(groups, bucket):
  return pack.pack(groups, rows=rows.paths, buckets=(bucket,), channels=('task',))[0]


def centred(batch, *, gain: float = 1., step):
  """Returns minus .5, times a gain that may be a schedule."""
  ret, on = tree.returns(batch.nodes, 'task')
  return tree.leaf_mean(jnp.where(on, ret - .5, 0.), on, batch.nodes.parent) * gain


def counter():
  return Stateful(lambda: 0, lambda state, batch, adv: (state + 1, adv))


def asked():
  return Loss(lambda out, batch, adv, stats: -adv * out.logp, lambda state, out, batch, adv, key: (state + 1, ()), init=lambda: 0)


def learner(name='policy', model='policy', *, minibatch=2, epochs=1, unit='row', **track):
  ramp = dict(schedule='linear', start=1., end=3., steps=2)
  tracks = assemble.tracks(dict(main=dict(estimator=(dict(name=centred, gain=ramp), counter), loss=('ppo_clip', asked)) | track))
  tx = assemble.optimizer(dict(name='sgd', learning_rate=.1, clip=None))
  return assemble.Learner(name, model, tracks, tx, epochs, minibatch, None, unit, 1, 'policy')


def made(one, transforms=(), mesh=None):
  mesh = mesh or meshes.create(devices=jax.devices()[:1])
  models = {'policy': Model(POLICY, jax.device_put(POLICY.init(jax.random.key(0)), meshes.replicated(mesh)), None)}
  return steps.make((one,), config.chain('transform', transforms), models, mesh, BUCKETS, temperature=1.), models


def test_a_transform_is_told_what_the_shape_of_a_batch_holds():
  told = []
  def listening(batch, *, actions=None):
    told.append(actions)
    return batch
  one, buckets = learner(), (BUCKETS[0]._replace(actions=8), BUCKETS[1])
  models, mesh = {'policy': Model(POLICY, POLICY.init(jax.random.key(0)), None)}, meshes.create(devices=jax.devices()[:1])
  fns = steps.make((one,), config.chain('transform', (listening,)), models, mesh, buckets, temperature=1.)
  for bucket in buckets:
    fns.transform(dict(policy=models['policy'].params), [()], packed(prompts(1), bucket).batch, [{}], 0, jax.random.key(0))
  assert told == [8, None]


def go(fns, one, st, part, *, step=0, mesh=None, **kw):
  batch = steps.put(part.batch, fns.mesh)
  return steps.learn(fns, one, st, dict(policy=st.params), batch, part, step=step, key=jax.random.fold_in(jax.random.key(7), step), **kw)


def test_a_learners_work():
  """Epochs of minibatches over the rows with a kept token; memory of the estimator once, of the loss once an update; credit by prompt."""
  one = learner(minibatch=2, epochs=3)
  fns, models = made(one)
  st = state.create(models['policy'].params, one.tx, one.tracks)
  assert steps.compiles(fns) == 0
  groups = [*prompts(3), *prompts(1, 5, end=3)]               # the last prompt failed: 6 rows of it are left
  part = packed(groups, BUCKETS[1])
  stages = []
  st, results, shown = go(fns, one, st, part, stages=stages.append)
  assert len(results) == 9 and stages == ['update'] * 9       # 6 rows by 2, three times
  assert [float(r['tokens']) for r in results] == [8.] * 9
  carry = jax.device_get(st.carry)['main']
  assert carry['estimator'] == [(), 1] and carry['loss'] == [(), 9] and int(st.updates) == 9
  assert [[round(a, 5) for a in g] for g in shown['main']] == [[.5, .5, -.5, -.5]] * 3 + [[0.] * 4]
  # other values, another step of the schedule, another number of live rows: the same programs
  compiled = steps.compiles(fns)
  assert compiled == 2
  st, results, shown = go(fns, one, st, packed(prompts(2, 9), BUCKETS[1]), step=1)
  assert len(results) == 6 and shown['main'][0] == pytest.approx([1., 1., -1., -1.])
  st, results, _ = go(fns, one, st, packed(prompts(2, 9, end=3), BUCKETS[1]), step=2)
  assert results == [] and steps.compiles(fns) == compiled and int(st.updates) == 15
  # what has no kept token is not left out where the config says so
  st, results, _ = go(fns, one, st, packed(prompts(1, 9, end=3) + prompts(1, 3), BUCKETS[1]), step=2, compact=False)
  assert len(results) == 3 and jax.device_get(st.carry)['main']['estimator'] == [(), 4]
  # a smaller bucket is a program of its own, and not more than one
  for seed in (1, 2):
    st, results, _ = go(fns, one, st, packed(prompts(2, seed), BUCKETS[0]), step=seed)
    assert len(results) == 6
  assert steps.compiles(fns) == 2 * compiled


@pytest.mark.parametrize(('average', 'rows_seen'), [('token_mean', 4), ('original_tokens', 8)])
def test_rows_whose_dropped_tokens_count_are_not_left_out(average, rows_seen):
  """Half of the rows have no kept token: they leave the work, but not the denominator of `original_tokens`."""
  def every_other(batch, keep):
    return keep & (batch.nodes.group[jnp.maximum(batch.tokens.node, 0)] % 2 == 0)
  one = learner(minibatch=8, selector=(every_other,), average=average)
  fns, models = made(one)
  seen, real = [], fns.update['policy', BUCKETS[1]]
  fns.update['policy', BUCKETS[1]] = lambda st, batch, credits, at, *rest: seen.append(int((at >= 0).sum())) or real(st, batch, credits, at, *rest)
  go(fns, one, state.create(models['policy'].params, one.tx, one.tracks), packed(prompts(4), BUCKETS[1]))
  assert seen == [rows_seen]


def test_a_run_can_be_repeated():
  """The same key and batch give the same parameters, another key another order of minibatches."""
  one = learner(minibatch=2)
  fns, models = made(one)
  def after(key_step):
    st = state.create(jax.tree.map(jnp.copy, models['policy'].params), one.tx, one.tracks)
    return np.asarray(go(fns, one, st, packed(prompts(3), BUCKETS[1]), step=key_step)[0].params['mix'])
  a, b, c = after(0), after(0), after(1)
  assert (a == b).all() and not (a == c).all()


def test_transforms_run_in_order_with_what_they_ask_for():
  def first(batch, *, step, scale: float = 1.):
    stream = dict(batch.tokens.stream, a=jnp.full(batch.tokens.ids.shape, scale) * step.astype(jnp.float32))
    return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=stream))
  def second(batch, *, models, key):
    old = batch.tokens.stream
    stream = dict(old, b=old['a'] + models['policy'].params['heads']['value']['bias'][0], c=jax.random.uniform(key, old['a'].shape),
                  d=old.get('c', old['a']))
    return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=stream))
  one = learner()
  fns, models = made(one, (dict(name=first, scale=2.), second, second))
  batch = steps.put(packed(prompts(1), BUCKETS[0]).batch, fns.mesh)
  bound = config.chain('transform', (dict(name=first, scale=dict(schedule='linear', start=2., end=4., steps=2)), second, second))
  def run(step):
    hypers = [b.floats(step) for b in bound]
    return fns.transform({'policy': models['policy'].params}, [(), (), ()], batch, hypers, jnp.int32(step), jax.random.key(0))[0].tokens.stream
  for step, want in ((1, 3.), (2, 8.)):
    got = run(step)
    assert float(got['a'][0, 0]) == want and float(got['b'][0, 0]) == want + .5
    assert not np.array_equal(got['c'], got['d']), 'each has a key of its own'
  assert fns.transform._cache_size() == 1 and made(one)[0].transform is None


def test_a_transform_with_a_memory():
  """The number of batches it has seen, in a stream; without one the memory is empty."""
  def counts(*, start: float = 0.) -> Stateful:
    def update(seen, batch):
      stream = dict(batch.tokens.stream, seen=jnp.full(batch.tokens.ids.shape, seen))
      return seen + 1., dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=stream))
    return Stateful(lambda: start, update)
  one = learner()
  fns, models = made(one, (dict(name=counts, start=3.),))
  bound, batch = config.chain('transform', (dict(name=counts, start=3.),)), packed(prompts(1), BUCKETS[0]).batch
  memory = objective.memory(bound)
  for want in (3., 4., 5.):
    batch, memory = fns.transform({'policy': models['policy'].params}, memory, batch, [bound[0].floats()], jnp.int32(0), jax.random.key(0))
    assert float(batch.tokens.stream['seen'][0, 0]) == want
  assert fns.transform._cache_size() <= 2 and objective.memory(config.chain('transform', ('score',))) == [()]


def test_prompts_of_a_minibatch():
  """unit='group' on rows that packing kept apart: both episodes of a prompt are in one update."""
  one = learner(minibatch=2, unit='group')
  fns, models = made(one)
  st = state.create(models['policy'].params, one.tx, one.tracks)
  told = []
  real = fns.update['policy', BUCKETS[1]]
  def spy(st, batch, credits, rows, *rest):
    told.append(sorted(np.asarray(rows).tolist()))
    return real(st, batch, credits, rows, *rest)
  fns.update['policy', BUCKETS[1]] = spy
  part = pack.pack(prompts(3), rows=rows.paths, buckets=(BUCKETS[1],), channels=('task',), unit='group')[0]
  go(fns, one, st, part)
  held = steps.row_groups(part)
  assert len(told) == 3 and all(len({held[r] for r in rows if r >= 0}) == 1 for rows in told)
