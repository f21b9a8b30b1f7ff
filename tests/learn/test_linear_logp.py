"""`linear_logp`: every implementation against the reference, in value and gradient; what must never be in memory."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.linear_logp import api
from pallas_kernels.linear_logp import linear_logp
from pallas_kernels.linear_logp import pieces
from pallas_kernels.linear_logp import xla

TOL = {'float32': dict(rtol=2e-5, atol=2e-5), 'bfloat16': dict(rtol=2e-2, atol=2e-2)}


def problem(tokens, width, vocab, dtype='float32', seed=0):
  a, b, c, d = jax.random.split(jax.random.key(seed), 4)
  hidden = jax.random.normal(a, (tokens, width), dtype)
  weight = jax.random.normal(b, (width, vocab), dtype) * (2 * width**-.5)
  return hidden, weight, jax.random.randint(c, (tokens,), 0, vocab), jax.random.normal(d, (2, tokens))


def both(op, hidden, weight, ids, g, temperature):
  """Values, and the gradients of a weighted sum of log-probabilities and entropies."""
  def loss(hidden, weight, temperature):
    logp, entropy = op(hidden, weight, ids, temperature=temperature)
    return jnp.sum(g[0] * logp) + jnp.sum(g[1] * entropy), (logp, entropy)
  grads, values = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(hidden, weight, temperature)
  return *values, *grads


def chunked(chunk=None, columns=None, tied=False):
  def op(hidden, weight, ids, *, temperature):
    return xla.linear_logp(hidden, weight, ids, temperature=temperature, extra={}, tied=tied, chunk=chunk, columns=columns)[:2]
  return op


def close(got, want, **tol):
  for g, w in zip(got, want, strict=True):
    assert g.shape == w.shape and g.dtype == w.dtype
    w = np.asarray(w, np.float32)
    tol_here = dict(tol, atol=tol['atol'] * max(1., np.abs(w).max()))
    np.testing.assert_allclose(np.asarray(g, np.float32), w, **tol_here)


@pytest.mark.parametrize('tied', [False, True])
@pytest.mark.parametrize('how', [
    dict(), dict(chunk=8), dict(columns=11), dict(columns=5)], ids=str)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_agrees_with_the_reference_in_value_and_gradient(how, tied, dtype):
  """37 tokens and 11 ids: neither divides; columns of 5 end in a chunk that sees four of them again."""
  hidden, weight, ids, g = problem(37, 5, 11, dtype)
  for temperature in (jnp.float32(.7), jnp.linspace(.5, 2., 37)):
    want = both(functools.partial(linear_logp, implementation='reference'), hidden, weight, ids, g, temperature)
    close(both(chunked(**how, tied=tied), hidden, weight, ids, g, temperature), want, **TOL[dtype])


def test_the_reference_is_right():
  """Two tokens over three ids, by hand: softmax of (0, log 2, log 3) and of (0, 0, 0)."""
  hidden, weight = jnp.array([[1., 0.], [0., 0.]]), jnp.array([[0., np.log(2.), np.log(3.)], [1., 1., 1.]], jnp.float32)
  for name in api.IMPLEMENTATIONS:
    logp, entropy = linear_logp(hidden, weight, jnp.array([2, 0]), implementation=name)
    np.testing.assert_allclose(logp, np.log([1 / 2, 1 / 3]), rtol=1e-6)
    p = np.array([1, 2, 3]) / 6
    np.testing.assert_allclose(entropy, [-np.sum(p * np.log(p)), np.log(3)], rtol=1e-6)


def test_temperature_may_differ_from_token_to_token_and_is_not_retraced():
  hidden, weight, ids, _ = problem(12, 5, 9)
  temperature = jnp.linspace(.5, 2., 12)
  traces = []
  @jax.jit
  def op(t):
    traces.append(t)
    return linear_logp(hidden, weight, ids, temperature=t)[0]
  each = op(temperature)
  op(temperature * 2)
  assert len(traces) == 1
  z = np.asarray(hidden) @ np.asarray(weight) / np.asarray(temperature)[:, None]
  want = z[np.arange(12), ids] - np.log(np.exp(z).sum(-1))
  np.testing.assert_allclose(each, want, rtol=1e-5)


def test_leading_dims_and_no_tokens():
  hidden, weight, ids, _ = problem(12, 5, 9)
  flat = linear_logp(hidden, weight, ids)
  shaped = linear_logp(hidden.reshape(3, 4, 5), weight, ids.reshape(3, 4))
  for f, s in zip(flat, shaped, strict=True):
    np.testing.assert_array_equal(f.reshape(3, 4), s)
  logp, entropy, values = linear_logp(hidden[:0], weight, ids[:0], extra={'x': lambda z, i: z[i]})
  assert logp.shape == entropy.shape == values['x'].shape == (0,)


def test_large_logits_stay_finite_and_exact():
  logits = jnp.array([[1e4, 1e4 - 1., -1e4]], jnp.float32)
  for name in api.IMPLEMENTATIONS:
    logp, entropy = linear_logp(jnp.ones((1, 1)), logits, jnp.array([1]), implementation=name)
    p = np.exp([0., -1.]) / np.exp([0., -1.]).sum()
    np.testing.assert_allclose([logp[0], entropy[0]], [np.log(p[1]), -np.sum(p * np.log(p))], rtol=2e-3)


@pytest.mark.parametrize('chunk', [None, 8])
def test_extra_sees_the_logits_and_gradients_flow_through_it(chunk):
  """Two extras at once; one closes over an array, whose gradient is asked for."""
  hidden, weight, ids, g = problem(19, 5, 7)

  def loss(op, hidden, weight, scale):
    extra = {'top': lambda z, i: jnp.max(z) * scale, 'margin': lambda z, i: z[i] - jnp.mean(jnp.square(z))}
    logp, _, values = op(hidden, weight, ids, temperature=jnp.float32(.8), extra=extra)
    assert set(values) == set(extra)
    return jnp.sum(g[0] * values['top'] * logp) + jnp.sum(g[1] * values['margin'])

  plain = functools.partial(linear_logp, implementation='reference')
  args = hidden, weight, jnp.float32(1.5)
  want = jax.jit(jax.value_and_grad(functools.partial(loss, plain), argnums=(0, 1, 2)))(*args)
  got = jax.jit(jax.value_and_grad(functools.partial(loss, functools.partial(xla.linear_logp, chunk=chunk)),
                                   argnums=(0, 1, 2)))(*args)
  close(jax.tree.leaves(got), jax.tree.leaves(want), rtol=2e-5, atol=2e-5)


def test_float32_weights_under_bf16_states_keep_a_float32_gradient():
  """The gradient of a float32 head is the sum in float32, not that sum rounded to bf16."""
  hidden, weight, ids, g = problem(64, 5, 11, 'bfloat16')
  want = both(chunked(8), hidden, weight, ids, g, jnp.float32(1))[3]
  got = both(chunked(8), hidden, weight.astype(jnp.float32), ids, g, jnp.float32(1))[3]
  assert got.dtype == jnp.float32 and want.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got.astype(jnp.bfloat16), want)
  assert np.any(np.asarray(got) != np.asarray(want, np.float32))


@pytest.mark.parametrize('how', [dict(chunk=8), dict(columns=4), dict(columns=11), dict(columns=4, tied=True)], ids=str)
@pytest.mark.parametrize('kept', ['bfloat16', 'float32'])
def test_backward_multiplies_bf16_by_bf16(how, kept):
  """Also where the head is kept in float32: it is cast, the products are not."""
  hidden, weight, ids, g = problem(32, 5, 11, 'bfloat16')
  loss = lambda h, w: jnp.sum(g[0] * chunked(**how)(h, w, ids, temperature=1.)[0])
  dots = products(jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, weight.astype(kept)))
  assert len(dots) == 4   # forward, and in backward the logits again, and both gradients
  for operands, result in dots:
    assert operands.count('bf16>') == 2 and result.endswith('xf32>'), (operands, result)


def products(lowered):
  """(types of the operands, type of the result) of each product in a lowered program."""
  return re.findall(r'dot_general.*: \((.*)\) -> (\S+)', lowered.as_text())


BIG = dict(tokens=4096, vocab=49152, width=576)
MIB = 2**20


def memory(op, tied, *, tokens, vocab, width, dtype='float32'):
  """MiB of temporary memory of (forward, gradient) at a shape; the program is compiled, not run."""
  shape = jax.ShapeDtypeStruct
  args = shape((tokens, width), dtype), shape((vocab, width) if tied else (width, vocab), dtype), shape((tokens,), jnp.int32)
  def run(hidden, weight, ids):
    return op(hidden, weight.T if tied else weight, ids, tied=tied)
  loss = lambda *args: sum(jnp.sum(x) for x in run(*args))
  temp = lambda f: jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes / MIB
  return temp(run), temp(jax.grad(loss, argnums=(0, 1)))


@pytest.mark.parametrize('tied', [False, True])
def test_memory_of_a_real_head(tied):
  """4096 tokens, 49152 ids: logits are 768 MiB, the head 108. Not even a transposed copy of the head is made."""
  forward, gradient = memory(linear_logp, tied, **BIG)
  assert forward < 64 and gradient < 160
  assert gradient < 64   # the head's gradient is an output, and counted there


@pytest.mark.parametrize('tokens,vocab,width,most', [(2048, 151936, 1536, 64), (4096, 1000, 64, 32), (40000, 4096, 64, 64)])
def test_memory_of_other_heads(tokens, vocab, width, most):
  """Vocabularies that no chunk divides, and more tokens than ids."""
  assert max(memory(linear_logp, True, tokens=tokens, vocab=vocab, width=width)) < most


def test_logits_of_all_tokens_never_exist():
  tokens, width, vocab = 1003, 8, 777
  hidden, weight, ids, g = problem(tokens, width, vocab)
  for how, most in ((dict(chunk=64), 64 * vocab), (dict(columns=64), tokens * 64)):
    loss = lambda h, w: sum(jnp.sum(x) for x in chunked(**how)(h, w, ids, temperature=1.))
    text = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, weight).compile().as_text()
    assert max(int(np.prod([int(d) for d in dims.split(',')])) for dims in re.findall(r'\w+\[([\d,]+)\]', text)) == most


def test_chunks_are_padded_not_divided():
  assert pieces.chunk_size(24 * 64, 96, 448) == 24 * 64          # all at once: no loop
  assert pieces.chunk_size(8519, 2048, 152_000) == 512           # not 7
  assert pieces.chunk_size(530, 2048, 152_000) == 384            # two of 384, not 512 and 18
  assert xla.column_count(4096, 49152) == 512 and xla.column_count(256, 152_000) == 8064
  hidden, weight, ids, _ = problem(24, 4, 9)
  text = jax.jit(lambda h: linear_logp(h, weight, ids)).lower(hidden).as_text()
  assert 'while' not in text


@pytest.mark.parametrize('name', ['pallas_tpu', 'mosaic_gpu', 'interpret'])
def test_what_does_not_exist_is_refused(name):
  hidden, weight, ids, _ = problem(2, 3, 4)
  with pytest.raises(ValueError, match=rf"no implementation '{name}'; it has \['reference', 'xla'\]"):
    linear_logp(hidden, weight, ids, implementation=name)


def test_shapes_are_checked():
  hidden, weight, ids, _ = problem(4, 3, 5)
  with pytest.raises(AssertionError):
    linear_logp(hidden, weight.T, ids)
  with pytest.raises(AssertionError):
    linear_logp(hidden, weight, ids[:3])
