"""From tracks to one number: credit, weights, terms; the numbers of the sheets; what may be cut into microbatches and packed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, masked, toy, tree
from rlx.learn import objective
from rlx.types import Advantages, Batch, Loss, Out, Stateful

sg = jax.lax.stop_gradient
KEY = jax.random.key(0)


def close(got, want, tol=1e-4):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def one(loss='ppo_clip', estimator='grpo', **kw):
  return assemble.tracks(dict(main=dict(estimator=estimator if isinstance(estimator, tuple) else (estimator,),
                                        loss=loss if isinstance(loss, tuple) else (loss,), **kw)))


def credit(tracks, b, carry=None, step=0, **kw):
  return objective.credit(tracks, objective.floats(tracks, step), objective.init(tracks) if carry is None else carry, b,
                          step=jnp.int32(step), key=KEY, **kw)


def worth(tracks, b, out, step=0):
  """The loss of a whole minibatch and its gradient in each log-probability."""
  hypers = objective.floats(tracks, step)
  def total(logp, out, b):
    b, credits, carry = objective.credit(tracks, hypers, objective.init(tracks), b, step=jnp.int32(step), key=KEY)
    out = dataclasses.replace(out, logp=logp)
    _, stats = objective.prepare(tracks, hypers, carry, out, b, credits, KEY)
    return objective.total(tracks, hypers, out, b, credits, objective.weights(tracks, hypers, b, credits), stats)
  (value, parts), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(out.logp, out, b)
  return value, grad, parts


def flat(b, **kw):
  """An answer of the model that agrees with the behaviour."""
  zero = jnp.zeros_like(b.tokens.logp)
  return Out(**{**dict(logp=b.tokens.logp, entropy=zero, value={}, extra={}), **kw})


def loss_of(fn):
  """A factory of a loss without hyperparameters."""
  return lambda: Loss(lambda out, batch, adv, stats: fn(out, adv))


# ---- the sheets --------------------------------------------------------------------------------------------------------

def test_trust_sql_two_tracks():
  """The paper's numbers, A^sch = [1.4142, -.7071, -.7071, 0] and A^ans = [1.3641, -.359, -1.0051, 0], with no method code."""
  b = toy.batch([-1, 0, -1, 2, -1, 4, -1, 6], end=[0, 1, 0, 1, 0, 1, 0, 3], schema=[1, 0, 0, 0, 0, 0, 9, 0],
                answer=[0, 1.1, 0, .3, 0, 0, 0, 9], label=dict(explore=[1, 0] * 4), n_tokens=[3, 2, 1, 5, 2, 2, 4, 4])
  tracks = assemble.tracks(dict(
      answer=dict(estimator=(dict(name='grpo', channel='answer', ddof=0, clip=10.),), average='seq_mean', loss=(dict(name='ppo_clip'),)),
      schema=dict(estimator=(dict(name='grpo', channel='schema', ddof=0, clip=10.),), selector=(dict(name='where', label='explore'),),
                  average='seq_mean', loss=(dict(name='ppo_clip'),), coef=.25)))
  b, credits, _ = credit(tracks, b)
  a_answer, a_schema = [1.3641, -.359, -1.0051, 0], [1.4142, -.7071, -.7071, 0]
  close(masked.node_mean(credits['answer'].adv, b)[1::2], a_answer)
  close(masked.node_mean(credits['schema'].adv, b)[0::2], a_schema)
  keep, node = np.asarray(credits['schema'].keep), np.asarray(b.tokens.node)
  assert sorted(set(node[keep])) == [0, 2, 4], 'its own tokens: acts of exploring, and none of the failed episode'
  weight = objective.weights(tracks, objective.floats(tracks, 0), b, credits)
  close(jnp.sum(weight['schema']), 1.)                                    # its own denominator
  close(jnp.sum(weight['answer']), 1.)
  assert not np.asarray(weight['schema'])[~keep].any()
  # at ratio 1 the gradient is REINFORCE: -A / (tokens of its sequence) / 3 sequences, and a quarter of that from the schema
  value, grad, parts = worth(tracks, b, flat(b))
  close([value, parts['answer'], parts['schema']], [0, 0, 0])
  for r in range(3):
    explore, confirm = (np.asarray(grad)[r][node[r] == s] for s in (2 * r, 2 * r + 1))
    whole = len(explore) + len(confirm)
    close(confirm, -a_answer[r] / whole / 3)
    close(explore, -a_answer[r] / whole / 3 - .25 * a_schema[r] / len(explore) / 3)
  assert not np.any(grad[3])


def test_averages_sheet():
  """Losses 1 2 3 | 4: token mean 2.5, mean over sequences 3, over a fixed length of 4: 1.25; and what a selector drops."""
  b = toy.batch([-1, -1], n_tokens=[3, 1], task=0)
  numbers = jnp.array([[1., 2, 3], [4, 9, 9]])
  def mean(average, keep=b.tokens.mask):
    tracks = one(loss_of(lambda out, adv: numbers), average=average)
    credits, hypers = dict(main=objective.Credit(adv=numbers, keep=keep)), objective.floats(tracks, 0)
    return float(objective.total(tracks, hypers, flat(b), b, credits, objective.weights(tracks, hypers, b, credits), dict(main=[()]))[0])
  assert mean('token_mean') == 2.5 and mean('seq_mean') == 3 and mean('turn_mean') == 3
  assert mean(dict(name='constant', length=4)) == mean(dict(name='constant', length=4.)) == 1.25
  few = b.tokens.mask & jnp.array([[1, 1, 0], [1, 0, 0]], bool)
  assert mean('original_tokens', few) == 7 / 4 and mean('token_mean', few) == pytest.approx(7 / 3)
  assert [mean(a, few & False) for a in ('token_mean', 'seq_mean', 'original_tokens')] == [0, 0, 0]


def test_a_length_may_be_a_schedule():
  b = toy.batch([-1, -1], n_tokens=[3, 1], task=0)
  tracks = one(average=dict(name='constant', length=dict(schedule='linear', start=4, end=8, steps=2)))
  _, credits, _ = credit(tracks, b)
  weight = jax.jit(lambda h: objective.weights(tracks, h, b, credits)['main'])
  assert [float(jnp.sum(weight(objective.floats(tracks, step)))) for step in (0, 1, 2)] == pytest.approx([.5, 4 / 6 / 2, .25])
  assert weight._cache_size() == 1


# ---- losses of sequences -----------------------------------------------------------------------------------------------

def gspo(*, low: float = .2, high: float = .3) -> Loss:
  """The ratio of a token is that of its sequence, a shared prefix included; its gradient goes through its own log-probability."""
  def term(out, batch, adv, stats):
    d = masked.segment_mean(sg(out.logp) - batch.tokens.logp, batch.tokens, over='path')
    r = jnp.exp(out.logp - sg(out.logp) + d)
    return jnp.maximum(-adv * r, -adv * jnp.clip(r, 1 - low, 1 + high))
  return Loss(term)


def dpo(*, beta: float = .1) -> Loss:
  """-log sigmoid(beta (s_chosen - s_rejected)); a pair is sequences 2k and 2k + 1 of a row."""
  def term(out, batch, adv, stats):
    t = batch.tokens
    x = out.logp - t.stream['ref_logp']
    margin = masked.segment_sum(x, t, over='path') - masked.segment_sum(x, t, over='path', of=t.segment ^ 1)
    return -jax.nn.log_sigmoid(beta * jnp.where(t.segment % 2 == 0, margin, -margin))
  return Loss(term)


def cov(*, fraction: float = .3) -> Loss:
  """A penalty on the tokens where advantage and log-probability go together most: looks at the whole minibatch first."""
  def score(out, adv, means):
    return (adv - means[0]) * (sg(out.logp) - means[1])
  def prepare(state, out, batch, adv, key):
    del key
    m = batch.tokens.mask
    means = jnp.mean(adv, where=m), jnp.mean(out.logp, where=m)
    top = jnp.sort(jnp.where(m, score(out, adv, means), -jnp.inf).ravel())[::-1]
    return state + 1, (means, top[(jnp.sum(m, dtype=jnp.float32) * fraction).astype(int)])
  def term(out, batch, adv, stats):
    means, least = stats
    d = out.logp - batch.tokens.logp
    return -adv * jnp.exp(d) + jnp.where(score(out, adv, means) >= least, jnp.abs(d), 0.)
  return Loss(term, prepare, init=lambda: 0)


def test_a_sequence_loss_sees_the_shared_prefix():
  """Two episodes share step 0, which the first row trains: the second's ratio is that of both its tokens."""
  b = toy.batch([-1, 0, 0], task=[0, 1, 0])
  logp = jnp.array([[.4, .2], [.4, -.6]])
  value, grad, _ = worth(one(gspo, dict(name='grpo', std=False)), b, flat(b, logp=logp))
  r = np.exp([.3, -.1])                                      # exp of (.4 + .2) / 2, (.4 - .6) / 2; A = 0, .5, -.5 on steps 0, 1, 2
  close(value, (-.5 * 1.3 + .5 * r[1]) / 3, 1e-6)            # 1.35 is clipped at 1.3
  close(grad, [[0, 0], [0, .5 * r[1] / 3]], 1e-6)


def test_dpo_is_a_mean_over_pairs():
  rng = np.random.default_rng(3)
  b = toy.batch([-1] * 6, n_tokens=[2, 3, 1, 4, 4, 2], task=0, pack=2, stream=dict(ref_logp=rng.normal(size=6)))
  out = outs(b)
  value, grad, _ = worth(one(dpo, 'ones', average='seq_mean'), b, out)
  t = jax.tree.map(np.asarray, b.tokens)
  x = np.asarray(out.logp) - t.stream['ref_logp']
  s = np.array([[x[r][t.segment[r] == k].sum() for k in (0, 1)] for r in range(3)])
  margin = .1 * (s[:, 0] - s[:, 1])
  close(value, np.mean(np.log1p(np.exp(-margin))), 1e-6)
  slope = -.1 / (1 + np.exp(margin))[:, None] * np.where(t.segment == 0, 1, -1) / 3
  close(grad, np.where(t.segment >= 0, slope, 0), 1e-6)


# ---- cutting a minibatch, packing it -----------------------------------------------------------------------------------

def rlvr(pack=1) -> Batch:
  """Two prompts with a fork, an abandoned branch, a failure and a cut-off episode."""
  rng = np.random.default_rng(0)
  parent, k = [-1, 0, 1, 1, 0, 4, -1, 6, -1, -1, 9, 10, 10, -1], 14
  columns = dict(group=[0] * 9 + [1] * 5, end=[0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 2, 3], task=rng.integers(0, 2, k),
                 label=dict(state=rng.integers(0, 4, k), explore=rng.integers(0, 2, k)),
                 n_tokens=rng.integers(1, 5, k), n_obs=rng.integers(0, 3, k),
                 logp=rng.normal(size=k) * .3,
                 stream={'ref_logp': rng.normal(size=k) * .3, 'value/value': rng.normal(size=k)})
  return toy.batch(parent, pack=pack, **columns)


def outs(b, seed=1):
  rng = np.random.default_rng(seed)
  draw = lambda scale: jnp.where(b.tokens.sampled, jnp.asarray(rng.normal(size=b.tokens.logp.shape) * scale, jnp.float32), 0.)
  return Out(logp=draw(.5), entropy=jnp.abs(draw(1.)), value=dict(value=draw(1.)), extra={})


def top_entropy(batch, keep):
  return keep & (batch.tokens.stream['ref_logp'] > -.2)


TRACKS = assemble.tracks(dict(
    a=dict(estimator=('grpo',), average='seq_mean',
           loss=(dict(name='ppo_clip', low=.1, high=.2, dual=2.), dict(name='kl', coef=.1), dict(name='entropy', coef=.01))),
    b=dict(estimator=('gigpo',), loss=(gspo,), average=dict(name='constant', length=7.), coef=.7),
    c=dict(estimator=('rloo',), selector=(top_entropy,), loss=(cov,), average='turn_mean'),
    d=dict(estimator=(dict(name='gae', gamma=.9, lam=.8),), selector=(dict(name='where', label='explore'),),
           loss=('ppo_clip', dict(name='value', clip=.5, coef=.5)), average='original_tokens')))


@functools.cache
def whole():
  b = rlvr()
  return worth(TRACKS, b, outs(b))


def test_microbatched_equals_whole():
  b = rlvr()
  out, hypers = outs(b), objective.floats(TRACKS, 0)
  want, grad, parts = whole()
  b, credits, carry = jax.jit(lambda b: credit(TRACKS, b))(b)
  weight = objective.weights(TRACKS, hypers, b, credits)
  carry, stats = objective.prepare(TRACKS, hypers, carry, out, b, credits, KEY)
  assert carry['c']['loss'] == [1]
  def total(logp, out, piece):
    b, credits, weight = piece
    return objective.total(TRACKS, hypers, dataclasses.replace(out, logp=logp), b, credits, weight, stats)
  step = jax.jit(jax.value_and_grad(total, has_aux=True))
  value, sums, grads = 0., {}, []
  for r in range(b.tokens.ids.shape[0]):
    row = lambda x, r=r: x[r:r + 1]
    piece = dataclasses.replace(b, tokens=jax.tree.map(row, b.tokens)), *jax.tree.map(row, (credits, weight))
    few = jax.tree.map(row, out)
    (v, p), g = step(few.logp, few, piece)
    value, sums = value + v, {k: sums.get(k, 0) + x for k, x in p.items()}
    grads.append(g)
  close(value, want, 1e-6)
  close([sums[k] for k in 'abcd'], [parts[k] for k in 'abcd'], 1e-6)
  close(jnp.concatenate(grads), grad, 1e-6)
  close(want, parts['a'] + .7 * parts['b'] + parts['c'] + parts['d'], 1e-6)
  assert min(abs(float(p)) for p in parts.values()) > 1e-3 and np.abs(grad).max() > 1e-2


def spread(x, pair, sequences):
  """`[R, T]` of single rows to rows of `pair` sequences laid end to end, as in the batch `sequences`."""
  x, seg = np.asarray(x), np.asarray(sequences.tokens.segment)
  out = np.zeros(seg.shape, x.dtype)
  for r in range(seg.shape[0]):
    for s in range(seg[r].max() + 1):
      at = np.flatnonzero(seg[r] == s)
      out[r, at] = x[pair * r + s, :len(at)]
  return jnp.asarray(out)


def test_packed_equals_unpacked():
  """Three sequences a row."""
  p, (value, grad, parts) = rlvr(pack=3), whole()
  v, g, q = worth(TRACKS, p, jax.tree.map(lambda x: spread(x, 3, p), outs(rlvr())))
  close(v, value, 1e-6)
  close(g, spread(grad, 3, p), 1e-6)
  close([q[k] for k in 'abcd'], [parts[k] for k in 'abcd'], 1e-6)


def test_no_advantage_no_policy_gradient():
  """And at ratio 1 the gradient of PPO is that of REINFORCE."""
  b = rlvr()
  zero = lambda batch: jnp.zeros(batch.nodes.parent.shape)
  assert not np.any(worth(one(estimator=zero), b, outs(b))[1])
  same = outs(b)
  b = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, logp=same.logp))
  close(worth(one(), b, same)[1], worth(one(loss_of(lambda out, adv: -adv * out.logp)), b, same)[1], 1e-7)


# ---- credit ------------------------------------------------------------------------------------------------------------

def test_only_what_an_ended_episode_runs_through_is_kept():
  """Whatever an estimator says and a selector wants: abandoned 2, failed 3 and shared prefixes of other rows stay out."""
  b = toy.batch([-1, 0, 0, 0, 0], end=[0, 1, 0, 3, 2], task=1)
  everything = lambda batch, keep: jnp.ones_like(keep)
  _, credits, _ = credit(one(estimator=lambda batch: jnp.ones(5), selector=(everything,)), b)
  assert credits['main'].keep.tolist() == [[True, True], [False, False], [False, False], [False, True]]
  close(credits['main'].adv, [[1, 1], [0, 1], [0, 1], [0, 1]])


def test_a_chain_of_estimators():
  """A modulator gets what stands before it, targets are carried past it, and both reach the batch."""
  b = toy.batch([-1, 0, -1], task=[0, 1, 0], n_tokens=[1, 2, 1])
  first = lambda batch: Advantages(adv=jnp.array([1., 2, 3]), target=dict(v=jnp.array([4., 5, 6])))
  double = lambda batch, adv: adv * 2
  def to_tokens(batch, adv):
    return Advantages(adv=masked.to_tokens(adv, batch.tokens) + 1, target=dict(w=jnp.full((2, 3), 7.)))
  got, credits, _ = credit(one(estimator=(first, double, to_tokens, double)), b)
  close(credits['main'].adv, [[6, 10, 10], [14, 0, 0]])          # 0 where no token is trained
  close(got.tokens.stream['target/v'], [[4, 5, 5], [6, 0, 0]])
  close(got.tokens.stream['target/w'], np.full((2, 3), 7))
  assert not b.tokens.stream, 'the batch that came in is not touched'


def test_shapes_are_refused():
  b = toy.batch([-1, 0, -1], task=0, n_tokens=2)
  per_token, per_step = lambda batch: jnp.zeros((2, 4)), lambda batch, adv: jnp.zeros(3)
  per_step.__name__ = 'mine'
  refused = lambda tracks: jax.eval_shape(lambda b: credit(tracks, b), b)
  with pytest.raises(ValueError, match="'mine' works on steps and cannot stand behind '<lambda>', which works on tokens"):
    refused(one(estimator=(per_token, per_step)))
  with pytest.raises(ValueError, match=r"estimator '<lambda>' gave \(2,\); it must give \[N\] = \(3,\) or \[R, T\] = \(2, 4\)"):
    refused(one(estimator=lambda batch: jnp.zeros(2)))
  with pytest.raises(ValueError, match=r"selector '<lambda>' gave float32\(2, 4\); it must give bool\(2, 4\)"):
    refused(one(selector=(lambda batch, keep: keep.astype(jnp.float32),)))


def test_what_the_loop_supplies():
  """Step, key and models by name; a selector may ask for the advantages; each method has a key of its own."""
  b = toy.batch([-1, 0], task=[0, 1], n_tokens=2)
  told = {}
  def estimate(batch, *, step, key, models, gain: float = 1.):
    told['a'] = jax.random.key_data(key).tolist()
    return jnp.full(2, models['judge']) * step.astype(jnp.float32) * gain
  def modulate(batch, adv, *, key):
    told['b'] = jax.random.key_data(key).tolist()
    return adv
  def select(batch, keep, *, adv, key):
    told['c'] = jax.random.key_data(key).tolist()
    return keep & (adv > 5)
  specs = dict(estimator=(dict(name=estimate, gain=2.), modulate), selector=(select,), loss=('ppo_clip',))
  tracks = assemble.tracks(dict(x=specs, y={**specs, 'estimator': (dict(name=estimate, gain=.5), lambda b, adv: adv)}))
  _, credits, _ = credit(tracks, b, step=3, models=dict(judge=2.))
  close(credits['x'].adv, [[12] * 4])
  close(credits['y'].adv, [[3] * 4])
  assert credits['x'].keep.all() and not credits['y'].keep.any()
  of_y = dict(told)
  credit(assemble.tracks(dict(x=specs)), b, step=3, models=dict(judge=2.))
  assert len({str(v) for v in (of_y['a'], of_y['c'], *told.values())}) == 5


def test_no_gradient_goes_through_credit():
  """An estimator and a selector that look at the log-probabilities do not leak a gradient."""
  b = toy.batch([-1, -1], task=[0, 1], logp=[.5, 1.])
  leaky = lambda batch: batch.tokens.logp * 2
  def loss(logp):
    c = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, logp=logp))
    _, credits, _ = credit(one(estimator=leaky, selector=(lambda batch, keep, *, adv: keep & (adv > 0),)), c)
    return jnp.sum(credits['main'].adv)
  assert float(loss(b.tokens.logp)) == 3 and not np.any(jax.grad(loss)(b.tokens.logp))


# ---- memory ------------------------------------------------------------------------------------------------------------

def running_mean(*, decay: float = .5, step):
  """An estimator with memory: returns minus a running mean of them."""
  del step
  def update(state, batch):
    ret, on = tree.returns(batch.nodes, 'task')
    now = jnp.sum(jnp.where(on, ret, 0)) / jnp.maximum(jnp.sum(on, dtype=jnp.float32), 1)
    return decay * state + (1 - decay) * now, jnp.where(on, ret - state, 0.)
  return Stateful(lambda: 0., update)


def bolder(*, by: float = 2.):
  def update(state, batch, adv):
    return dict(seen=state['seen'] + 1), adv * by
  return Stateful(lambda: dict(seen=0), update)


def shrinking(*, adv):
  """A selector with memory: keeps tokens above the largest advantage it has seen."""
  def update(state, batch, keep):
    return jnp.maximum(state, jnp.max(adv)), keep & (adv > state)
  return Stateful(lambda: -jnp.inf, update)


def test_methods_with_a_memory():
  tracks = one(cov, (running_mean, dict(name=bolder, by=3.)), selector=(shrinking,))
  carry = objective.init(tracks)
  assert jax.tree.map(lambda x: (x.dtype, x.weak_type), carry) == dict(main=dict(
      estimator=[(jnp.float32, False), dict(seen=(jnp.int32, False))], selector=[(jnp.float32, False)], loss=[(jnp.int32, False)]))
  run = jax.jit(lambda b, carry: credit(tracks, b, carry))
  for task, adv, kept, mean, largest in (([2., 4.], [6., 12.], [True, True], 1.5, 12.),        # the mean was 0
                                         ([3.5, 9.5], [6., 24.], [False, True], 4., 24.),      # the mean was 1.5
                                         ([12., 4.], [24., 0.], [False, False], 6., 24.)):
    _, credits, carry = run(toy.batch([-1, -1], task=task), carry)
    close(credits['main'].adv[:, 0], adv)
    assert credits['main'].keep[:, 0].tolist() == kept
    close(carry['main']['estimator'][0], mean)
    close(carry['main']['selector'][0], largest)
  assert int(carry['main']['estimator'][1]['seen']) == 3 and run._cache_size() == 1


def test_each_prepare_has_a_key_of_its_own():
  def noisy(*, scale: float = 1.):
    return Loss(lambda out, batch, adv, stats: stats * adv, lambda state, out, batch, adv, key: (state, jax.random.uniform(key)))
  b = toy.batch([-1, -1], task=[0, 1])
  tracks = assemble.tracks({k: dict(estimator=('grpo',), loss=(noisy, noisy)) for k in 'xy'})
  b, credits, carry = credit(tracks, b)
  _, stats = objective.prepare(tracks, objective.floats(tracks, 0), carry, flat(b), b, credits, KEY)
  assert len({float(s) for of in stats.values() for s in of}) == 4


def test_prepare_sees_what_is_kept_and_no_gradient_goes_through_it():
  seen = []
  def prepare(state, out, batch, adv, key):
    seen.append(batch.tokens.mask.tolist())
    return state, jnp.sum(out.logp)
  loss = lambda: Loss(lambda out, batch, adv, stats: jnp.full(adv.shape, stats), prepare)
  tracks, b = one(loss, selector=(lambda batch, keep: keep & (batch.tokens.node > 0),)), toy.batch([-1, -1], task=[0, 1], logp=[1., 2.])
  hypers = objective.floats(tracks, 0)
  def total(logp):
    c, credits, carry = credit(tracks, b)
    out = flat(c, logp=logp)
    _, stats = objective.prepare(tracks, hypers, carry, out, c, credits, KEY)
    return objective.total(tracks, hypers, out, c, credits, objective.weights(tracks, hypers, c, credits), stats)[0]
  value, grad = jax.value_and_grad(total)(b.tokens.logp)
  assert float(value) == 3 and not np.any(grad) and seen == [[[False], [True]]]
  assert objective.prepared(tracks) and not objective.prepared(one())


# ---- hyperparameters ---------------------------------------------------------------------------------------------------

def test_floats_of_all_tracks():
  """Everything that may change without compiling: floats and schedules, coefficients included."""
  ramp = dict(schedule='linear', start=0, end=1, steps=4)
  tracks = assemble.tracks(dict(main=dict(estimator=(dict(name='gigpo', gamma=.9),), average=dict(name='constant', length=ramp),
                                          loss=(dict(name='ppo_clip', low=.1, coef=ramp), 'entropy'), coef=.5)))
  h = objective.floats(tracks, 3)['main']
  assert jax.tree.map(float, h) == dict(estimator=[dict(gamma=pytest.approx(.9))], selector=[], average=dict(length=.75),
                                        loss=[dict(low=pytest.approx(.1)), {}], coefs=[.75, 1.], coef=.5)
  assert all(x.dtype == jnp.float32 and not getattr(x, 'weak_type', False) for x in jax.tree.leaves(h))


def test_what_losses_want_of_forward():
  def focal(*, power: float = 2.):
    return Loss(lambda out, batch, adv, stats: out.extra['focal'], extra=dict(focal=lambda z, i: jnp.max(z) * power), heads=('q', 'value'))
  ramp = dict(schedule='linear', start=1., end=3., steps=2)
  tracks = one((dict(name=focal, power=ramp), 'value'))
  heads, extra = objective.wants(tracks)
  assert heads == ('q', 'value') and set(extra) == {'focal'}
  at = jax.jit(lambda h: objective.wants(tracks, h)[1]['focal'](jnp.array([1., 5.]), 0))
  assert [float(at(objective.floats(tracks, s))) for s in (0, 1, 2)] == [5, 10, 15] and at._cache_size() == 1


def test_extras_of_one_name():
  """One loss in two tracks may ask twice for the same; another loss, or another setting of it, may not take the name."""
  def focal(*, power=2.):
    return Loss(lambda out, batch, adv, stats: out.extra['focal'], extra=dict(focal=lambda z, i: jnp.max(z) * power))
  tracks = lambda a, b: assemble.tracks({n: dict(estimator=('grpo',), loss=(x,)) for n, x in dict(a=a, b=b).items()})
  assert set(objective.wants(tracks(focal, focal))[1]) == {'focal'}
  with pytest.raises(ValueError, match="'focal'.*both have an extra 'focal'"):
    objective.wants(tracks(focal, dict(name=focal, power=3.)))
