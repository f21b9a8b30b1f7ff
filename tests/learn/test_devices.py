"""One stored batch on 8 virtual devices (data 2 x fsdp 2 x tensor 2) and on one: every loss, the gradient norm, the parameters."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx import assemble, masked
from rlx.learn import mesh as meshes
from rlx.learn import objective, pack, rows, state
from rlx.learn import step as steps
from rlx.models.transformer import transformer
from rlx.types import Loss, Model
from tests.trees import group, step

RULES = (('embed/.*', ('tensor', 'fsdp')), ('.*/(q|k|v|gate|up)/kernel', ('fsdp', 'tensor')), ('.*/(o|down)/kernel', ('tensor', 'fsdp')))
BUCKET = pack.Bucket(8, 20, 64, 8, 12)
POLICY = transformer(vocab=48, layers=1, dim=16, heads=2, ff=32)


def sequences(*, low: float = .2, high: float = .3):
  """Ratios of whole sequences, over rows that lie on one device each."""
  def term(out, batch, adv, stats):
    r = jnp.exp(masked.segment_mean(out.logp - batch.tokens.logp, batch.tokens, over='path'))
    return jnp.maximum(-adv * r, -adv * jnp.clip(r, 1 - low, 1 + high))
  return Loss(term)


def centred(*, scale: float = 1.):
  """Looks at the whole minibatch, so at all devices, before its first term."""
  def prepare(state, out, batch, adv, key):
    m = batch.tokens.mask
    return state + 1, jnp.sum(jnp.where(m, out.logp, 0.)) / jnp.sum(m, dtype=jnp.float32)
  return Loss(lambda out, batch, adv, stats: scale * jnp.square(out.logp - stats), prepare, init=lambda: 0)


LOSSES = dict(ppo_clip='ppo_clip', kl='kl', entropy='entropy', sft='sft', value='value', sequences=sequences, centred=centred)
AVERAGES = dict(ppo_clip='token_mean', kl='seq_mean', entropy='turn_mean', sft=dict(name='constant', length=5.), value='original_tokens',
                sequences='seq_mean', centred='token_mean')


def stored():
  """Five prompts of two or three episodes, some shared steps, a failure, a cut-off, a dead end; the same numbers every time."""
  rng = np.random.default_rng(0)
  word = lambda n: rng.integers(1, 48, n).tolist()
  groups = []
  for p in range(5):
    nodes = []
    def say(parent, end=0):
      n = step(parent, word(int(rng.integers(1, 5))), word(int(rng.integers(1, 4))), end=end, reward=dict(task=float(rng.random())))
      nodes.append(n)
      n.logp[:] = rng.normal(size=len(n.ids)) * .2 - 3.9
      n.stream |= {k: rng.normal(size=len(n.ids)).astype(np.float32) * .2 - s for k, s in (('ref_logp', 3.9), ('value/value', 0.))}
      return len(nodes) - 1
    root = say(-1)
    say(root, 1)
    say(root, 2)
    say(say(-1), (1, 1, 3, 0, 2)[p])
    groups.append(group(nodes, str(p)))
  return pack.pack(groups, rows=rows.paths, buckets=(BUCKET,), channels=('task',), streams=('ref_logp', 'value/value'))[0]


def run(mesh, part):
  """Two updates of a learner with a track for each loss."""
  credit = dict(ppo_clip='grpo', sequences='grpo', value=dict(name='gae', gamma=.9, lam=.8))
  none = lambda batch: jnp.zeros(batch.nodes.parent.shape)
  tracks = assemble.tracks({k: dict(estimator=credit.get(k, none), loss=loss, average=AVERAGES[k]) for k, loss in LOSSES.items()})
  tx = assemble.optimizer(dict(name='sgd', learning_rate=.1, momentum=.9))
  learner = assemble.Learner('policy', 'policy', tracks, tx, 1, 8, None, 'row', 1, 'policy')
  first = {**POLICY.init(jax.random.key(1)), 'heads': dict(value=dict(kernel=jnp.linspace(-1., 1., 16)[:, None], bias=jnp.zeros(1)))}
  params = jax.device_put(first, meshes.shard_params(first, RULES, mesh))
  fns = steps.make((learner,), (), {'policy': Model(POLICY, params, None)}, mesh, (BUCKET,), temperature=.9)
  st, told = state.create(params, learner.tx, tracks), []
  for i in range(2):
    batch = steps.put(part.batch, mesh)
    st, results, shown = steps.learn(fns, learner, st, {'policy': st.params}, batch, part, step=0, key=jax.random.key(2))
    told += jax.device_get(results)
  return st, told, shown, steps.compiles(fns)


def test_eight_devices_give_what_one_gives():
  part = stored()
  assert (part.batch.tokens.segment >= 0).any(1).sum() == 7 and part.batch.tokens.mask.sum() > 40
  one, want, advantages, _ = run(meshes.create(devices=jax.devices()[:1]), part)
  eight, got, shown, compiled = run(meshes.create(2, 2, 2), part)
  assert len(got) == len(want) == 2
  for w, g in zip(want, got, strict=True):
    assert set(g) == set(w) >= {f'loss/{k}' for k in LOSSES} | {'grad_norm', 'clip_share'}
    for k in w:
      np.testing.assert_allclose(g[k], w[k], rtol=1e-4, atol=1e-4, err_msg=k)
    for k in LOSSES:
      assert abs(w[f'loss/{k}']) > 1e-3, f'{k} says nothing'
  assert 0 < want[0]['clip_share'] < 1 and want[0]['grad_norm'] > .1
  for k in advantages:
    np.testing.assert_allclose(sum(shown[k], []), sum(advantages[k], []), atol=1e-4)
  params = [jax.device_get(st.params) for st in (eight, one)]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4), *params)
  assert [int(st.carry['centred']['loss'][0]) for st in (one, eight)] == [2, 2]
  # what is split stays split, moments too, and nothing is compiled twice
  for tree in (eight.params, eight.opt_state[1][0].trace):
    assert tree['layers']['attention']['q']['kernel'].addressable_shards[0].data.shape == (1, 8, 8)
    assert tree['embed']['table'].addressable_shards[0].data.shape == (24, 8)
  assert compiled == 2
