"""Losses: value and gradient against the sheets' numbers, and what all of them promise."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, masked, testing, toy
from rlx.losses.entropy import entropy
from rlx.losses.kl import kl
from rlx.losses.ppo_clip import ppo_clip
from rlx.losses.sft import sft
from rlx.losses.value import value
from rlx.types import Loss, Out


def close(got, want, tol=1e-5):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def line(n, **kw):
  """One sequence of n tokens."""
  return toy.batch(parent=[-1], n_tokens=n, task=0, **kw)


def out_of(logp, entropy=None, **heads):
  row = lambda x: jnp.asarray(x, jnp.float32)[None]
  logp = row(logp)
  entropy = jnp.zeros_like(logp) if entropy is None else row(entropy)
  return Out(logp=logp, entropy=entropy, value={k: row(x) for k, x in heads.items()})


def term_and_slope(loss, b, out, adv, wrt='logp'):
  """(term [R, T], derivative of its sum over kept tokens)."""
  def total(x):
    o = dataclasses.replace(out, value={wrt: x}) if wrt in out.value else dataclasses.replace(out, **{wrt: x})
    term = loss.term(o, b, adv, ())
    return jnp.sum(jnp.where(b.tokens.mask, term, 0.)), term
  (_, term), slope = jax.value_and_grad(total, has_aux=True)(out.value[wrt] if wrt in out.value else getattr(out, wrt))
  return term, slope


# ---- numbers of the sheets -------------------------------------------------------------------------------------------

def test_ppo_clip_sheet():
  """verl-project/verl@1dda039 run on r = [1.5, .5, 1.5, 4], A = [1, -1, -1, -1], bounds .2 / .28, dual 3 (sheet B2)."""
  out, adv = out_of(np.log([1.5, .5, 1.5, 4])), jnp.asarray([[1., -1, -1, -1]])
  term, slope = term_and_slope(ppo_clip(low=.2, high=.28, dual=3.), line(4), out, adv)
  close(term, [[-1.28, .8, 1.5, 3.]])
  close(slope, [[0, 0, 1.5, 0]])


def test_ppo_clip_defaults_are_symmetric_and_single():
  """bounds .2 and no dual clip: r = 4, A = -1 is not clipped."""
  term, slope = term_and_slope(ppo_clip(), line(4), out_of(np.log([1.1, 1.3, .7, 4])), jnp.asarray([[1., 1, -1, -1]]))
  close(term, [[-1.1, -1.2, .8, 4]])
  close(slope, [[-1.1, 0, 0, 4]], 2e-5)


def test_ppo_clip_against_another_stream():
  b = line(2, logp=-1., stream=dict(old_logp=[-.5]))
  close(ppo_clip(old='old_logp', high=9.).term(out_of([0., .5]), b, jnp.ones((1, 2)), ()), [[-np.exp(.5), -np.exp(1.)]])
  close(ppo_clip(high=9.).term(out_of([0., .5]), b, jnp.ones((1, 2)), ()), [[-np.exp(1.), -np.exp(1.5)]])


def test_ppo_clip_bounds_the_log_ratio():
  """A log-ratio beyond 20 is 20, without gradient."""
  term, slope = term_and_slope(ppo_clip(high=1e30), line(2), out_of([50., -50.]), jnp.asarray([[1., 1.]]))
  assert np.isfinite(term).all()
  close(np.log(-np.asarray(term)), [[20, -20]], 1e-4)
  close(slope, [[0, 0]])


@pytest.mark.parametrize('kind, want', [('k1', .22314), ('k2', .024897), ('k3', .023144)])
def test_kl_sheet(kind, want):
  """pi = .5, pi_ref = .4 (sheet B3, verl-project/verl@1dda039); with a '+' the value stays and the slope is k2's, -d."""
  b, out = line(1, stream=dict(ref_logp=[np.log(.4)])), out_of([np.log(.5)])
  d = np.log(.4) - np.log(.5)
  own = dict(k1=1., k2=-d, k3=1 - np.exp(d))[kind]
  for name, slope in ((kind, own), (kind + '+', -d)):
    term, got = term_and_slope(kl(kind=name), b, out, jnp.zeros((1, 1)))
    close(term, [[want]], 5e-6)
    close(got, [[slope]])


def test_kl_k3_is_clipped():
  """exp(20) - 21 is cut to 10, k1 and k2 are not cut."""
  b, out = line(2, stream=dict(ref_logp=[[30., -30.]])), out_of([0., 0.])
  close(kl(kind='k3').term(out, b, 0., ()), [[10, 10]])
  close(kl(kind='k2').term(out, b, 0., ()), [[450, 450]])
  close(kl(kind='k1').term(out, b, 0., ()), [[-30, 30]])


def test_kl_reads_the_named_stream_and_refuses_other_kinds():
  b = line(1, stream=dict(anchor=[-1.]))
  close(kl(kind='k1', reference='anchor').term(out_of([-.5]), b, 0., ()), [[.5]])
  with pytest.raises(ValueError, match=r"k1, k2, k3, each also with a '\+'; not 'k4'"):
    kl(kind='k4')


def test_entropy_and_sft():
  b, out = line(2), out_of([-.5, -2.], entropy=[.7, .2])
  term, slope = term_and_slope(entropy(), b, out, jnp.zeros((1, 2)), 'entropy')
  close(term, [[-.7, -.2]])
  close(slope, [[-1, -1]])
  term, slope = term_and_slope(sft(), b, out, jnp.full((1, 2), 9.))
  close(term, [[.5, 2]])
  close(slope, [[-1, -1]])


def test_value_loss():
  """V = [1, 1, 1], R = [2, 0, 1], V_old = [1, .2, .2], clip .5: squares 1; 1 (of 1 and .7^2); .3^2 (of 0 and .3^2)."""
  b = line(3, stream={'target/critic': [[2., 0, 1]], 'value/critic': [[1., .2, .2]]})
  out = out_of([0.] * 3, critic=[1., 1, 1])
  term, slope = term_and_slope(value(head='critic'), b, out, jnp.zeros((1, 3)), 'critic')
  close(term, [[.5, .5, 0]])
  close(slope, [[-1, 1, 0]])
  term, slope = term_and_slope(value(head='critic', clip=.5), b, out, jnp.zeros((1, 3)), 'critic')
  close(term, [[.5, .5, .045]])
  close(slope[0, 1:], [1, 0])            # a clipped prediction has no slope
  assert value(head='critic').heads == ('critic',) and value().heads == ('value',) and ppo_clip().heads == ()


# ---- what all of them promise ----------------------------------------------------------------------------------------

LOSSES = dict(ppo_clip=ppo_clip(), dual=ppo_clip(dual=3.), old=ppo_clip(old='old_logp'), k1=kl(kind='k1'),
              k2=kl(kind='k2'), k3=kl(), k3_plus=kl(kind='k3+'), entropy=entropy(), sft=sft(), value=value(), value_clip=value(clip=.5))


@functools.cache
def case():
  """A rich batch, a model's answer and advantages, all different from token to token."""
  b = testing.batch(3)
  rng = np.random.default_rng(0)
  shape = b.tokens.node.shape
  draw = lambda: jnp.asarray(rng.normal(size=shape), jnp.float32)
  near = jnp.where(b.tokens.sampled, b.tokens.logp + .3 * draw(), 0.)
  out = Out(logp=near, entropy=jnp.where(b.tokens.sampled, jnp.abs(draw()), 0.), value=dict(value=draw()))
  stream = {**b.tokens.stream, 'target/value': draw()}
  return dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, stream=stream)), out, jnp.where(b.tokens.mask, draw(), 0.)


def total(loss: Loss, out, b, adv, of=average.token_mean):
  """The loop's sum for one loss."""
  num, den = of(b, b.tokens.mask)
  weight = num / jnp.sum(den)
  return jnp.sum(jnp.where(b.tokens.mask, loss.term(out, b, adv, ()) * weight, 0.))


value_and_grad = {k: jax.jit(jax.value_and_grad(lambda out, b, adv, f=f: total(f, out, b, adv))) for k, f in LOSSES.items()}


@pytest.mark.parametrize('name', LOSSES)
def test_masked_tokens_are_finite_and_have_no_gradient(name):
  """Even where the model gave nothing sensible for a masked token."""
  b, out, adv = case()
  hole = lambda x, bad: jnp.where(b.tokens.mask, x, bad)
  bad = Out(logp=hole(out.logp, -jnp.inf), entropy=hole(out.entropy, 1e30),
            value=dict(value=hole(out.value['value'], 1e30)))
  term = LOSSES[name].term(bad, b, adv, ())
  assert term.shape == b.tokens.node.shape and term.dtype == jnp.float32
  assert not np.asarray(term)[~np.asarray(b.tokens.mask)].any()
  v, grad = value_and_grad[name](bad, b, adv)
  want, _ = value_and_grad[name](out, b, adv)
  close(v, want)
  for g in jax.tree.leaves(grad):
    assert np.isfinite(g).all() and not np.asarray(g)[~np.asarray(b.tokens.mask)].any()


@pytest.mark.parametrize('name', [k for k, f in LOSSES.items() if f.local])
def test_local_losses_are_elementwise(name):
  """A slice of the arguments gives the slice of the term: rows, tokens, and both at once."""
  b, out, adv = case()
  whole = LOSSES[name].term(out, b, adv, ())
  for rows, width in ((slice(2, 5), slice(None)), (slice(None), slice(3, 9)), (slice(4, 5), slice(2, 3))):
    cut = lambda x, rows=rows, width=width: x[rows, width]
    part = dataclasses.replace(b, tokens=jax.tree.map(cut, b.tokens))
    close(LOSSES[name].term(jax.tree.map(cut, out), part, cut(adv), ()), cut(whole), 0)


@pytest.mark.parametrize('name', ['ppo_clip', 'dual', 'old'])
def test_no_advantage_no_policy_gradient(name):
  b, out, adv = case()
  v, grad = value_and_grad[name](out, b, jnp.zeros_like(adv))
  assert float(v) == 0 and not any(np.asarray(g).any() for g in jax.tree.leaves(grad))


@pytest.mark.parametrize('name', ['ppo_clip', 'dual', 'old'])
def test_ratio_one_is_reinforce(name):
  """At the behaviour policy the gradient is that of -A logp."""
  b, out, adv = case()
  behaviour = b.tokens.stream['old_logp'] if name == 'old' else b.tokens.logp
  _, grad = value_and_grad[name](dataclasses.replace(out, logp=behaviour), b, adv)
  num, den = average.token_mean(b, b.tokens.mask)
  close(grad.logp, -adv * num / jnp.sum(den), 1e-7)


@pytest.mark.parametrize('of', [average.seq_mean, average.turn_mean], ids=lambda f: f.__name__)
def test_packed_equals_unpacked(of):
  """All losses together: the same value and gradient however the sequences stand in rows."""
  b, out, adv = case()
  run = jax.jit(jax.value_and_grad(lambda out, b, adv: sum(total(f, out, b, adv, of) for f in LOSSES.values())))
  want, grad = run(out, b, adv)
  for pack in (1, 3):
    other, source = testing.lay_out(b, pack=pack)
    move = lambda x, source=source: jnp.where(source >= 0, x.ravel()[source], 0)
    got, moved = run(jax.tree.map(move, out), other, move(adv))
    close(got, want, 1e-4)
    mask = np.asarray(other.tokens.mask)
    for g, w in zip(jax.tree.leaves(moved), jax.tree.leaves(grad), strict=True):
      close(np.asarray(g)[mask], np.asarray(w).ravel()[source[mask]], 1e-6)


@pytest.mark.parametrize('name', LOSSES)
def test_microbatched_equals_whole(name):
  """Rows one after the other, with the weights of the whole: the same sum."""
  b, out, adv = case()
  num, den = average.seq_mean(b, b.tokens.mask)
  parts = 0.
  for r in range(0, b.tokens.node.shape[0], 4):
    cut = lambda x, r=r: x[r:r + 4]
    part = dataclasses.replace(b, tokens=jax.tree.map(cut, b.tokens))
    term = LOSSES[name].term(jax.tree.map(cut, out), part, cut(adv), ())
    parts += jnp.sum(jnp.where(cut(b.tokens.mask), term * cut(num), 0.)) / jnp.sum(den)
  close(parts, total(LOSSES[name], out, b, adv, average.seq_mean), 1e-5)


def test_float_keywords_may_be_traced():
  """The loop passes floats as arguments of the jitted function, so that a schedule compiles once."""
  b, out, adv = case()
  f = jnp.float32
  run = jax.jit(lambda low, high, dual, clip: (total(ppo_clip(low=low, high=high, dual=dual), out, b, adv),
                                               total(value(clip=clip), out, b, adv)))
  got = run(f(.1), f(.3), f(3.), f(.5))
  close(got[0], total(ppo_clip(low=.1, high=.3, dual=3.), out, b, adv), 1e-6)
  close(got[1], total(value(clip=.5), out, b, adv), 1e-5)


def test_demonstrations_are_seen_without_a_ratio():
  """sft does not read the behaviour log-probability."""
  b, out, adv = case()
  other = dataclasses.replace(b, tokens=dataclasses.replace(b.tokens, logp=b.tokens.logp - 5.))
  close(sft().term(out, other, adv, ()), sft().term(out, b, adv, ()), 0)
  assert not np.allclose(ppo_clip().term(out, other, adv, ()), ppo_clip().term(out, b, adv, ()))


def test_what_a_track_drops_is_not_trained():
  b, out, adv = case()
  keep = b.tokens.mask & (b.tokens.position % 2 == 0)
  narrow = masked.narrow(b, keep)
  for name in LOSSES:
    assert not np.asarray(LOSSES[name].term(out, narrow, adv, ()))[~np.asarray(keep)].any(), name
