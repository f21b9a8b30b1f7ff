"""One update: its gradient, its metrics, what a minibatch leaves out, what stands after a gradient that is not finite."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlx import assemble, masked, toy
from rlx.learn import objective
from rlx.learn import state as states
from rlx.learn.forward import forward
from rlx.types import Loss, Out
from tests.policies import bag

POLICY, KEY, T = bag(), jax.random.key(0), .8
PARAMS = POLICY.init(jax.random.key(1))
SGD = optax.sgd(.1)


def close(got, want, tol=1e-5):
  jax.tree.map(lambda g, w: np.testing.assert_allclose(np.asarray(g), np.asarray(w), atol=tol, rtol=tol), got, want)


def batch(seed=0):
  """Three prompts: two episodes, a fork, one cut off beside a failed one; ids drawn, behaviour near the policy."""
  rng = np.random.default_rng(seed)
  b = toy.batch([-1, 0, -1, 2, -1, 4, 4, -1, -1], group=[0, 0, 0, 0, 1, 1, 1, 2, 2], end=[0, 1, 0, 1, 0, 1, 1, 2, 3],
                task=[0, 1, 0, 0, 0, 1, 0, 2, 9], n_tokens=[2, 3, 1, 2, 2, 1, 3, 4, 2], n_obs=1)
  shape = b.tokens.ids.shape
  noise = lambda: jnp.where(b.tokens.sampled, jnp.asarray(rng.normal(size=shape) * .3, jnp.float32), 0.)
  ids = jnp.asarray(rng.integers(0, 64, shape), jnp.int32)
  logp = jax.jit(lambda t: forward(POLICY, PARAMS, t, temperature=T))(dataclasses.replace(b.tokens, ids=ids)).logp
  return dataclasses.replace(b, tokens=dataclasses.replace(
      b.tokens, ids=ids, logp=logp + noise(), stream={'ref_logp': logp + noise(), 'value/value': noise(), 'target/value': noise()}))


B = batch()
ROWS = jnp.asarray([0, 1, 2, 3, 4, 5, -1, -1], jnp.int32)      # of a minibatch of 8, two are padding


def tracks_of(*losses, estimator='grpo', **kw):
  return assemble.tracks(dict(main=dict(estimator=(estimator,), loss=losses, **kw)))


@functools.cache
def credits_of(estimator='grpo'):
  """Advantages and kept tokens of the batch."""
  tracks = tracks_of('ppo_clip', estimator=estimator)
  run = lambda b: objective.credit(tracks, objective.floats(tracks, 0), objective.init(tracks), b, step=jnp.int32(0), key=KEY)[1]['main']
  return jax.jit(run)(B)


def fresh(tracks, tx=SGD):
  return states.create(jax.tree.map(jnp.copy, PARAMS), tx, tracks)


def once(tracks, *, rows=ROWS, b=B, credits=None, state=None, step=0, tx=SGD, update=None, **kw):
  update = update or states.update(tracks, POLICY, tx, temperature=T, **kw)
  credits = {name: credits_of() for name in tracks} if credits is None else credits
  return update(fresh(tracks, tx) if state is None else state, b, credits, rows, objective.floats(tracks, step), KEY)


# ---- the gradient ------------------------------------------------------------------------------------------------------

def test_one_step_of_descent():
  """Parameters, loss, gradient norm and the means over kept tokens, against the loss written down."""
  c = credits_of()
  def loss(params):
    out = forward(POLICY, params, B, temperature=T)
    r = jnp.exp(out.logp - B.tokens.logp)
    term = -jnp.minimum(c.adv * r, c.adv * jnp.clip(r, .8, 1.3))
    d = B.tokens.stream['ref_logp'] - out.logp
    term += .5 * (jnp.exp(d) - d - 1)
    return jnp.sum(jnp.where(c.keep, term, 0)) / jnp.sum(c.keep, dtype=jnp.float32), out
  (want, out), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(PARAMS)
  state, seen = once(tracks_of(dict(name='ppo_clip', high=.3), dict(name='kl', coef=.5)))
  close(state.params, jax.tree.map(lambda p, g: p - .1 * g, PARAMS, grad))
  keep, adv, d = np.asarray(c.keep), np.asarray(c.adv), np.asarray(out.logp - B.tokens.logp)
  mean = lambda x: np.asarray(x)[keep].mean()
  cut = ((adv > 0) & (np.exp(d) > 1.3)) | ((adv < 0) & (np.exp(d) < .8))
  assert 0 < cut.sum() < (adv != 0).sum()
  norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grad)))
  close(seen, {'loss/main': want, 'grad_norm': norm, 'entropy': mean(out.entropy),
               'nll': -mean(out.logp), 'kl': mean(np.exp(d) - 1 - d), 'ratio_gap': mean(abs(np.exp(d) - 1)), 'logp_gap': mean(abs(d)), 'tokens': 18, 'skipped': 0,
               'clip_share': cut.sum() / (adv != 0).sum()})
  assert int(state.updates) == 1 and keep.sum() == 18
  assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grad)) > 1e-3


def counting(*, scale: float = 1.):
  """A loss with a memory that looks at the whole minibatch first: mean log-probability of it, and how often it was asked."""
  def prepare(state, out, batch, adv, key):
    m = batch.tokens.mask
    return dict(seen=state['seen'] + 1, kept=state['kept'] + jnp.sum(m, dtype=jnp.float32)), jnp.sum(jnp.where(m, out.logp, 0.))
  def term(out, batch, adv, stats):
    return scale * jnp.square(out.logp - stats / 18)
  return Loss(term, prepare, init=lambda: dict(seen=0, kept=0.))


def sequences(*, low: float = .1, high: float = .2):
  """Ratios of whole sequences, shared prefixes included."""
  def term(out, batch, adv, stats):
    r = jnp.exp(masked.segment_mean(out.logp - batch.tokens.logp, batch.tokens, over='path'))
    return jnp.maximum(-adv * r, -adv * jnp.clip(r, 1 - low, 1 + high))
  return Loss(term)


MANY = assemble.tracks(dict(
    main=dict(estimator=('grpo',), loss=('ppo_clip', dict(name='kl', coef=.1), dict(name='entropy', coef=.01)), average='seq_mean'),
    other=dict(estimator=('grpo',), loss=(counting, dict(name='value', coef=.3)), average='turn_mean', coef=.5)))


MANY_UPDATE = states.update(MANY, POLICY, SGD, temperature=T)


@functools.cache
def whole():
  """The update without microbatches, as host arrays."""
  return jax.device_get(once(MANY, update=MANY_UPDATE))


def test_microbatches_change_nothing():
  """8 rows at once or two at a time: parameters, memory and every metric."""
  state, seen = once(MANY, microbatch=2)
  want, saw = whole()
  close(state.params, want.params)
  close(seen, saw)
  assert state.carry['other']['loss'][0] == want.carry['other']['loss'][0] == dict(seen=1, kept=18)


def test_the_order_of_rows_and_where_padding_stands_change_nothing():
  state, seen = once(MANY, rows=jnp.asarray([-1, 5, 4, 3, -1, 2, 1, 0], jnp.int32), update=MANY_UPDATE)
  want, saw = whole()
  close(state.params, want.params)
  close(seen, saw)


def test_a_minibatch_has_its_own_denominator():
  """Nothing of a row that is padding, or of rows that are not in it, is in any average."""
  rows = jnp.asarray([4, -1, 1], jnp.int32)
  few, credits = states.take(B, dict(main=credits_of()), rows)
  keep = np.asarray(credits_of().keep)[[4, 0, 1]] & np.array([[1], [0], [1]], bool)
  np.testing.assert_array_equal(credits['main'].keep, keep)
  np.testing.assert_array_equal(few.tokens.mask, np.asarray(B.tokens.mask)[[4, 0, 1]] & np.array([[1], [0], [1]], bool))
  for average, weight in (('token_mean', 1 / keep.sum()), ('original_tokens', 1 / few.tokens.mask.sum()),
                          (dict(name='constant', length=9), 1 / 18)):
    tracks = tracks_of('ppo_clip', average=average)
    close(objective.weights(tracks, objective.floats(tracks, 0), few, credits)['main'], np.where(keep, weight, 0))


def test_microbatches_must_divide():
  with pytest.raises(ValueError, match='a minibatch of 8 rows does not divide into microbatches of 3'):
    once(tracks_of('ppo_clip'), microbatch=3)


# ---- what losses cut off -----------------------------------------------------------------------------------------------

RATIOS = (.5, .79, .81, 1., 1.19, 1.21, 3.5)


def clipped(tracks, b, out, credits):
  """Numbers (of tokens whose advantage is read, of those that are cut), as an update counts them."""
  hypers = objective.floats(tracks, 0)
  run = jax.jit(lambda out: states._clipped(tracks, hypers, out, b, credits, objective.weights(tracks, hypers, b, credits),
                                            {name: [()] * len(t.loss) for name, t in tracks.items()}))
  return tuple(int(x) for x in run(out))


@functools.cache
def at_ratios():
  """(batch, out, r): the ratios of the list, in turn, on its trained tokens, and some on shared prefixes."""
  mask = np.asarray(B.tokens.mask)
  r = np.where(np.asarray(B.tokens.sampled), 1.4, 1.)
  r[mask] = np.resize(RATIOS, mask.sum())
  out = Out(logp=B.tokens.logp + jnp.asarray(np.log(r), jnp.float32), entropy=jnp.ones_like(B.tokens.logp), value={}, extra={})
  return B, out, r


@pytest.mark.parametrize('more', [(), (dict(name='kl', coef=.1), dict(name='entropy', coef=.1)), (dict(name='kl', kind='k1', coef=5.),)],
                         ids=['alone', 'kl and entropy', 'k1'])
@pytest.mark.parametrize('dual', [None, 3.])
def test_clip_share_counts_exactly_the_clipped_tokens(dual, more):
  """Terms that push a clipped token elsewhere do not hide it."""
  b, out, r = at_ratios()
  c = credits_of()
  adv, read = np.asarray(c.adv), np.asarray(c.keep & (c.adv != 0))
  cut = ((adv > 0) & (r > 1.2)) | ((adv < 0) & ((r < .8) | (r > (dual or np.inf))))
  assert clipped(tracks_of(dict(name='ppo_clip', dual=dual), *more), b, out, dict(main=c)) == (read.sum(), (cut & read).sum())
  assert 0 < (cut & read).sum() < read.sum() < c.keep.sum()


def test_clip_share_of_other_losses():
  """All cut, none cut, none that reads an advantage, whole sequences, two tracks together."""
  b, out, r = at_ratios()
  c = credits_of()
  adv, read = np.asarray(c.adv), np.asarray(c.keep & (c.adv != 0))
  far = c.keep & jnp.asarray(abs(r - 1) > .2)
  away = objective.Credit(adv=jnp.where(far, jnp.where(jnp.asarray(r) > 1, 1., -1.), 0.), keep=far)
  assert clipped(tracks_of('ppo_clip'), b, out, dict(main=away)) == (far.sum(), far.sum())
  assert clipped(tracks_of(dict(name='ppo_clip', low=.9, high=9.)), b, out, dict(main=c)) == (read.sum(), 0)
  assert clipped(tracks_of('sft', 'kl', 'entropy'), b, out, dict(main=c)) == (0, 0)
  sampled = np.asarray(b.tokens.sampled)
  mean = np.array([np.log(row[s]).mean() for row, s in zip(r, sampled, strict=True)])[:, None]
  cut = read & (((-adv > 0) & (np.exp(mean) > 1.3)) | ((-adv < 0) & (np.exp(mean) < .85)))
  other = dict(main=dataclasses.replace(c, adv=-c.adv))
  assert clipped(tracks_of(dict(name=sequences, low=.15, high=.3)), b, out, other) == (read.sum(), cut.sum())
  assert 0 < cut.sum() < read.sum()
  both = assemble.tracks(dict(x=dict(estimator='grpo', loss='ppo_clip'),
                              y=dict(estimator='grpo', loss=dict(name='ppo_clip', low=.1, high=.1))))
  cuts = [(read & (((adv > 0) & (r > 1 + e)) | ((adv < 0) & (r < 1 - e)))).sum() for e in (.2, .1)]
  assert clipped(both, b, out, dict(x=c, y=c)) == (2 * read.sum(), sum(cuts)) and cuts[0] < cuts[1]


# ---- what is not finite ------------------------------------------------------------------------------------------------

def scaled(*, by: float = 1.):
  prepare = lambda state, out, batch, adv, key: (state + 1, 1.)
  return Loss(lambda out, batch, adv, stats: stats * by * out.logp, prepare, init=lambda: 0)


def test_a_gradient_that_is_not_finite_is_skipped():
  """Parameters, moments and memory stay; the next update is what it would have been."""
  tracks, tx = tracks_of(scaled), optax.adam(.1)
  update = states.update(tracks, POLICY, tx, temperature=T, microbatch=4)
  def args(by):
    hypers = dict(objective.floats(tracks, 0)['main'], loss=[dict(by=np.float32(by))])
    return B, dict(main=credits_of()), ROWS, dict(main=hypers), KEY
  first, _ = update(fresh(tracks, tx), *args(1.))
  before = jax.device_get(first)
  for by in (np.nan, np.inf):
    first, seen = update(first, *args(by))
    assert float(seen['skipped']) == 1
    close(dataclasses.replace(first, updates=0), dataclasses.replace(before, updates=0), 0)
  assert int(first.updates) == 3
  second, seen = update(first, *args(1.))
  assert float(seen['skipped']) == 0 and int(second.carry['main']['loss'][0]) == 2
  want, _ = update(update(fresh(tracks, tx), *args(1.))[0], *args(1.))
  close(second.params, want.params, 0)
  assert update._cache_size() == 1


# ---- compiled once -----------------------------------------------------------------------------------------------------

def test_floats_and_schedules_are_traced_and_the_state_is_donated():
  """Coefficients, clip ranges and what a loss asks of the logits follow their schedules; one program does it all."""
  ramp = dict(schedule='linear', start=1., end=3., steps=2)
  def wanted(*, power: float = 1.):
    return Loss(lambda out, batch, adv, stats: out.extra['one'], extra=dict(one=lambda z, i: power + 0 * z[i]))
  tracks = assemble.tracks(dict(a=dict(estimator='grpo', loss=dict(name=wanted, power=ramp)),
                                b=dict(estimator='grpo', coef=ramp,
                                       loss=(dict(name='ppo_clip', low=ramp), dict(name='entropy', coef=ramp), counting))))
  update = states.update(tracks, POLICY, SGD, temperature=T)
  state, told = fresh(tracks), []
  for step in range(3):
    held = state.params['mix']
    state, seen = once(tracks, update=update, state=state, step=step)
    told.append(float(seen['loss/a']))
    assert held.is_deleted()
  assert told == pytest.approx([1, 2, 3]) and update._cache_size() == 1
  assert int(state.carry['b']['loss'][2]['seen']) == 3 and int(state.updates) == 3


def test_tokens_with_a_temperature_of_their_own_are_trained_at_it():
  """`stream['temperature']`, 0 where the run's holds."""
  own = jnp.where(jnp.arange(B.tokens.ids.shape[1])[None] % 2 == 0, jnp.float32(.3), 0.) * jnp.ones(B.tokens.ids.shape, jnp.float32)
  logp = jax.jit(lambda t: forward(POLICY, PARAMS, B, temperature=t))(jnp.where(own > 0, own, T)).logp
  tokens = dataclasses.replace(B.tokens, logp=logp)
  tracks, credits = tracks_of('ppo_clip'), dict(main=credits_of())
  step = states.update(tracks, POLICY, SGD, temperature=T)
  def gap(stream):
    b = dataclasses.replace(B, tokens=dataclasses.replace(tokens, stream={**B.tokens.stream, **stream}))
    return float(step(fresh(tracks), b, credits, ROWS, objective.floats(tracks, 0), KEY)[1]['logp_gap'])
  assert gap(dict(temperature=own)) < 1e-5 and gap({}) > .05
