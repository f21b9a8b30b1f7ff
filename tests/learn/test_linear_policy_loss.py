"""`linear_policy_loss`: against the reference and `linear_logp`, in value and gradient; its products, its memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.linear_logp import linear_logp
from pallas_kernels.linear_policy_loss import api
from pallas_kernels.linear_policy_loss import linear_policy_loss
from pallas_kernels.linear_policy_loss import xla


def problem(tokens, width, vocab, dtype='float32'):
  a, b, c, d = jax.random.split(jax.random.key(0), 4)
  hidden = jax.random.normal(a, (tokens, width), dtype)
  weight = jax.random.normal(b, (width, vocab), dtype) * (2 * width**-.5)
  adv, old = jax.random.normal(d, (2, tokens))
  return hidden, weight, jax.random.randint(c, (tokens,), 0, vocab), dict(adv=adv, old=old - 2, keep=jnp.arange(tokens) % 5 > 0)


def term(logp, entropy, extra, args):
  """A clipped ratio and an entropy bonus, of kept tokens."""
  r = jnp.exp(logp - args['old'])
  loss = jnp.maximum(-args['adv'] * r, -args['adv'] * jnp.clip(r, .8, 1.2)) - .3 * entropy + sum(extra.values(), 0.)
  return jnp.where(args['keep'], loss, 0.)


def value_and_grads(op, hidden, weight, factor=1.):
  """Columns, the loss, and its gradients, times a factor."""
  def loss(hidden, weight):
    total, *columns = op(hidden, weight)
    return factor * total, columns
  (total, columns), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(hidden, weight)
  return dict(total=total, columns=columns, grads=grads)


def close(got, want, tol):
  for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert g.shape == w.shape and g.dtype == w.dtype
    w = np.asarray(w, np.float32)
    np.testing.assert_allclose(np.asarray(g, np.float32), w, rtol=tol, atol=tol * max(1., np.abs(w).max()))


@pytest.mark.parametrize('chunk', [None, 8])
@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_agrees_with_the_reference_in_value_and_gradient(chunk, tied, dtype):
  hidden, weight, ids, args = problem(37, 5, 11, dtype)
  scale = jnp.float32(.1)
  extra = dict(top=lambda z, i: jnp.max(z) * scale, margin=lambda z, i: .01 * (z[i] - jnp.mean(jnp.square(z))))
  for temperature in (jnp.full(37, .7), jnp.linspace(.5, 2., 37)):
    kw = dict(temperature=temperature, extra=extra, tied=tied)
    want = value_and_grads(lambda h, w: api.IMPLEMENTATIONS['reference'](h, w, ids, term, args, **kw), hidden, weight, 3.)
    got = value_and_grads(lambda h, w: xla.linear_policy_loss(h, w, ids, term, args, chunk=chunk, **kw), hidden, weight, 3.)
    close(got, want, dict(float32=2e-5, bfloat16=2e-2)[dtype])
  assert all(float(jnp.abs(g).max()) > 1e-2 for g in got['grads'])


def test_equals_a_loss_on_top_of_linear_logp():
  """Leading dims, a traced number inside the term, one chunk and several."""
  hidden, weight, ids, args = problem(24, 5, 11)
  shaped = lambda x: x.reshape(4, 6, *x.shape[1:])
  def unfused(h, w, coef):
    logp, entropy = linear_logp(shaped(h), w, shaped(ids), temperature=.7)
    return coef * jnp.sum(term(logp, entropy, {}, jax.tree.map(shaped, args)))
  def fused(h, w, coef):
    loss, logp, entropy, extra = linear_policy_loss(
        shaped(h), w, shaped(ids), lambda *x: coef * term(*x), jax.tree.map(shaped, args), temperature=.7)
    assert logp.shape == entropy.shape == (4, 6) and not extra
    return loss
  got, want = (jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(hidden, weight, 1.7) for f in (fused, unfused))
  close(got, want, 1e-5)


def test_padding_has_no_say():
  """A term that has neither value nor slope where its args are 0."""
  hidden, weight, ids, _ = problem(5, 3, 4)
  odd = lambda logp, entropy, extra, args: logp / args + jnp.sqrt(args) * entropy
  run = lambda h, w: xla.linear_policy_loss(h, w, ids, odd, jnp.ones(5), temperature=jnp.ones(5), extra={}, chunk=4)
  want = value_and_grads(lambda h, w: api.IMPLEMENTATIONS['reference'](
      h, w, ids, odd, jnp.ones(5), temperature=jnp.ones(5), extra={}), hidden, weight)
  close(value_and_grads(run, hidden, weight), want, 1e-5)


def test_no_tokens_and_what_does_not_exist():
  hidden, weight, ids, args = problem(6, 3, 4)
  none = jax.tree.map(lambda x: x[:0], args)
  loss, logp, entropy, extra = linear_policy_loss(hidden[:0], weight, ids[:0], term, none, extra={'x': lambda z, i: z[i]})
  assert loss == 0 and logp.shape == entropy.shape == extra['x'].shape == (0,)
  with pytest.raises(ValueError, match=r"no implementation 'pallas'; it has \['reference', 'xla'\]"):
    linear_policy_loss(hidden, weight, ids, term, args, implementation='pallas')
  with pytest.raises(AssertionError):
    linear_policy_loss(hidden, weight, ids, term, jax.tree.map(lambda x: x[:3], args))


@pytest.mark.parametrize('tied', [False, True])
def test_three_products_of_bf16_by_bf16(tied):
  """Logits, and the two gradients; none is made again."""
  hidden, weight, ids, args = problem(32, 5, 11, 'bfloat16')
  loss = lambda h, w: linear_policy_loss(h, w, ids, term, args, tied=tied)[0]
  text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, weight.astype(jnp.float32)).as_text()
  dots = re.findall(r'dot_general.*: \((.*)\) -> (\S+)', text)
  assert len(dots) == 3
  for operands, result in dots:
    assert operands.count('bf16>') == 2 and result.endswith('xf32>'), (operands, result)


@pytest.mark.parametrize('tied', [False, True])
def test_memory_of_a_real_head(tied):
  """4096 tokens, 49152 ids: logits are 768 MiB, the head 108."""
  shape = jax.ShapeDtypeStruct
  args = dict(adv=shape((4096,), jnp.float32), old=shape((4096,), jnp.float32), keep=shape((4096,), bool))
  def loss(hidden, weight, ids, args):
    return linear_policy_loss(hidden, weight.T if tied else weight, ids, term, args, tied=tied)[0]
  compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(
      shape((4096, 576), jnp.float32), shape((49152, 576) if tied else (576, 49152), jnp.float32), shape((4096,), jnp.int32), args).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 160 * 2**20


def test_the_loop_is_kept_out_of_the_backward_pass():
  """One loop: nothing of it is stacked for later."""
  hidden, weight, ids, args = problem(40, 5, 11)
  op = functools.partial(xla.linear_policy_loss, temperature=jnp.ones(40), extra={}, chunk=8)
  text = jax.jit(jax.grad(lambda h, w: op(h, w, ids, term, args)[0], argnums=(0, 1))).lower(hidden, weight).as_text()
  assert text.count('stablehlo.while') == 1
