"""`forward` against a loop over sequences; packed rows, tree rows, gathered actions, padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.learn import forward as fwd
from rlx.learn.forward import forward
from rlx.models.transformer import transformer
from rlx.types import Policy, Tokens

VOCAB, WIDTH = 13, 6


def tiny(dtype=jnp.float32) -> Policy:
  """Each token sees the mean of what is visible to it, and itself."""
  def init(key):
    a, b, c, d = jax.random.split(key, 4)
    return {'embedding': jax.random.normal(a, (VOCAB, WIDTH)), 'position': jax.random.normal(b, (32, WIDTH)),
            'head': jax.random.normal(c, (WIDTH, VOCAB)),
            'heads': {'v': {'kernel': jax.random.normal(d, (WIDTH, 1)), 'bias': jnp.full(1, .5)}}}

  def apply(params, ids, position, last, cache=None):
    x = params['embedding'][ids] + params['position'][position]
    i = jnp.arange(ids.shape[1])
    visible = (i[None, None, :] <= i[None, :, None]) & (i[None, :, None] < last[:, None, :])   # [R, i, j]
    visible = visible.astype(jnp.float32)
    w = visible / jnp.maximum(visible.sum(-1, keepdims=True), 1)
    return (jnp.tanh(jnp.einsum('rij,rjd->rid', w, x)) + x).astype(dtype), cache
  return Policy(init, apply, lambda params: params['head'], None)


def tokens_of(rows, width, **stream) -> Tokens:
  """Rows of sequences of (id, sampled), packed from the left."""
  shape = len(rows), width
  cols = dict(ids=np.zeros(shape, np.int32), segment=np.full(shape, -1, np.int32),
              position=np.zeros(shape, np.int32), sampled=np.zeros(shape, bool))
  for r, row in enumerate(rows):
    t = 0
    for s, sequence in enumerate(row):
      for p, (id_, sampled) in enumerate(sequence):
        for name, x in dict(ids=id_, segment=s, position=p, sampled=sampled).items():
          cols[name][r, t] = x
        t += 1
  zero = jnp.zeros(shape, jnp.float32)
  return Tokens(**{k: jnp.asarray(v) for k, v in cols.items()}, node=jnp.zeros(shape, jnp.int32),
                mask=jnp.asarray(cols['sampled']), logp=zero, stream=stream)


def sequence(seed, flags):
  rng = np.random.default_rng(seed)
  return [(int(rng.integers(VOCAB)), f == '1') for f in flags]


A, B, C, D = (sequence(n, f) for n, f in enumerate(['0011', '00110011', '1011', '001']))
ROWS = ((A, B), (C,), (D, C, A))
POLICY = tiny()
PARAMS = POLICY.init(jax.random.key(0))


def by_hand(params, seq, temperature):
  """(logp, entropy, value, logit) of each sampled token of one sequence, in float64, one state after the other."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
  x = np.stack([p['embedding'][i] + p['position'][n] for n, (i, _) in enumerate(seq)])
  out = np.zeros((4, len(seq)))
  for t in range(1, len(seq)):
    if seq[t][1]:
      state = np.tanh(x[:t].mean(0)) + x[t - 1]
      z = state @ p['head'] / temperature
      logp = z - np.log(np.exp(z).sum())
      value = state @ p['heads']['v']['kernel'][:, 0] + .5
      out[:, t] = logp[seq[t][0]], -np.sum(np.exp(logp) * logp), value, z[seq[t][0]]
  return out


def expected(temperature, width=16):
  want = np.zeros((4, len(ROWS), width))
  for r, row in enumerate(ROWS):
    whole = np.concatenate([by_hand(PARAMS, s, temperature) for s in row], axis=1)
    want[:, r, :whole.shape[1]] = whole
  return want


@functools.partial(jax.jit, static_argnames=('actions',))
def run(params, tokens, temperature, actions=None):
  return forward(POLICY, params, tokens, temperature=temperature, heads=('v',), actions=actions,
                 extra={'own': lambda z, i: z[i]})


@pytest.mark.parametrize('actions', [None, 6, 9, 40])
def test_packed_rows_equal_sequences_by_hand(actions):
  """6 is exactly what the fullest row has; padding and tokens that were not sampled stay 0."""
  want = expected(.7)
  out = run(PARAMS, tokens_of(ROWS, 16), jnp.float32(.7), actions=actions)
  for got, w in zip((out.logp, out.entropy, out.value['v'], out.extra['own']), want, strict=True):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, w, rtol=2e-5, atol=2e-6)


def test_columns_of_unsampled_tokens_are_zero_and_the_first_of_a_sequence_too():
  out = run(PARAMS, tokens_of(ROWS, 16), jnp.float32(1))
  asked = np.array(tokens_of(ROWS, 16).sampled)
  asked[1, 0] = False                      # C begins with a sampled token: no state chose it
  asked[2, 3] = False
  for x in jax.tree.leaves(out):
    np.testing.assert_array_equal(np.asarray(x)[~asked], 0)
  assert np.all(np.asarray(out.logp)[asked] < 0)


def test_gathered_actions_have_the_gradient_of_all_tokens():
  tokens = tokens_of(ROWS, 16)
  def loss(params, actions):
    out = run(params, tokens, jnp.float32(.9), actions=actions)
    return jnp.sum(out.logp) + jnp.sum(jnp.square(out.entropy)) + jnp.sum(jnp.square(out.value['v']))
  want, got = (jax.jit(jax.grad(functools.partial(loss, actions=a)))(PARAMS) for a in (None, 7))
  jax.tree.map(lambda g, w: np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-5), got, want)
  assert np.abs(want['heads']['v']['kernel']).max() > 0


def test_a_policy_that_can_pick_is_asked_for_nothing_else():
  asked = []
  def apply(params, ids, position, last, cache=None, pick=None):
    asked.append(pick.shape)
    hidden, cache = POLICY.apply(params, ids, position, last, cache)
    return jnp.take_along_axis(hidden, pick[:, :, None], axis=1), cache
  out = jax.jit(lambda p, t: forward(POLICY._replace(apply=apply), p, t, actions=7))(PARAMS, tokens_of(ROWS, 16))
  np.testing.assert_allclose(out.logp, expected(1.)[0], rtol=2e-5, atol=2e-6)
  assert asked == [(3, 7)]


def test_the_head_runs_on_gathered_actions_only():
  text = run.lower(PARAMS, tokens_of(ROWS, 16), jnp.float32(1), actions=7).as_text()
  assert f'tensor<{3 * 7}x{VOCAB}xf32>' in text and f'tensor<{3 * 16}x{VOCAB}xf32>' not in text


def test_more_sampled_tokens_than_actions_are_loud():
  out = run(PARAMS, tokens_of(ROWS, 16), jnp.float32(1), actions=5)
  full = run(PARAMS, tokens_of(ROWS, 16), jnp.float32(1))
  bad = np.isnan(out.logp)
  assert bad.sum() == 1 and bad[0, 11]      # the sixth of row 0; rows 1 and 2 hold 2 and 5
  np.testing.assert_allclose(np.asarray(out.logp)[~bad], np.asarray(full.logp)[~bad], rtol=1e-6)


def test_padding_changes_nothing():
  narrow, wide = (run(PARAMS, tokens_of(rows, w), jnp.float32(1), actions=6)
                  for rows, w in ((ROWS, 12), ((*ROWS, ()), 19)))
  np.testing.assert_allclose(wide.logp[:3, :12], narrow.logp, rtol=1e-6)
  assert not np.any(wide.logp[3:]) and not np.any(wide.logp[:, 12:])


def test_temperature_of_each_token():
  tokens = tokens_of(ROWS, 16)
  t = jnp.tile(jnp.array([.5, 1., 2.]), (3, 16))[:, :16]
  out = run(PARAMS, tokens, t, actions=6)
  want = np.choose(np.arange(16) % 3, [expected(x)[0] for x in (.5, 1., 2.)])
  np.testing.assert_allclose(out.logp, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize('size', [1, 2, 3, 8])
def test_rows_in_turn_say_the_same(size):
  """Two rows of three leave one place of the last set to fill; a temperature of each token goes with its row."""
  tokens = tokens_of(ROWS, 16)
  for t in (jnp.float32(.7), jnp.tile(jnp.array([.5, 1., 2.]), (3, 16))[:, :16] + jnp.arange(3, dtype=jnp.float32)[:, None]):
    out = jax.jit(lambda p, t, tokens: forward(POLICY, p, tokens, temperature=t, heads=('v',), actions=6, extra={'own': lambda z, i: z[i]},
                                               microbatch=size))(PARAMS, t, tokens)
    jax.tree.map(lambda got, want: np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6), out, run(PARAMS, tokens, t, actions=6))


def test_a_microbatch_of_no_rows():
  with pytest.raises(ValueError, match='a microbatch has at least 1 row, not 0'):
    forward(POLICY, PARAMS, tokens_of(ROWS, 16), microbatch=0)


def test_rows_in_turn_need_the_memory_of_one_set():
  policy = transformer(vocab=64, layers=2, dim=64, heads=2, ff=512)
  shape = lambda dtype: jax.ShapeDtypeStruct((32, 128), dtype)
  tokens = jax.tree.map(lambda x: shape(x.dtype), tokens_of(ROWS, 16))
  need = lambda size: jax.jit(lambda p, t: forward(policy, p, t, actions=16, microbatch=size)).lower(
      jax.eval_shape(policy.init, jax.random.key(0)), tokens).compile().memory_analysis().temp_size_in_bytes
  assert need(4) < need(None) / 4


def test_bf16_models_give_float32():
  half = tiny(jnp.bfloat16)
  out = jax.jit(lambda p, t: forward(half, p, t, heads=('v',), actions=6))(PARAMS, tokens_of(ROWS, 16))
  assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype('float32')}
  np.testing.assert_allclose(out.logp, expected(1.)[0], rtol=.1, atol=.1)


def test_last_and_before_of_packed_rows():
  segment = jnp.array([[0, 0, 0, 1, 1, -1], [0, 1, 2, 2, 2, 2]])
  np.testing.assert_array_equal(fwd.last_seen(segment), [[3, 3, 3, 5, 5, 6], [1, 2, 6, 6, 6, 6]])
  np.testing.assert_array_equal(fwd.last_seen(jnp.array([[0, -1, -1, 1]])), [[1, 2, 3, 4]])
  tokens = dataclasses.replace(tokens_of(((), ()), 6), segment=segment)
  np.testing.assert_array_equal(fwd.before(tokens), [[-1, 0, 1, -1, 3, -1], [-1, -1, -1, 2, 3, 4]])


# A tree of tokens, preorder:  0 1 +- 2 3 +- 4      and a second tree in the same row: 0 +- 1
#                                  |      +- 5 6                                        +- 2
#                                  +- 7 8                                      (then two of padding)
PARENT = [-1, 0, 1, 2, 3, 3, 5, 1, 7, -1, 9, 9, -1, -1]
LAST = [9, 9, 7, 7, 5, 7, 7, 9, 9, 12, 11, 12, 13, 14]
POSITION = [0, 1, 2, 3, 4, 4, 5, 2, 3, 0, 1, 1, 0, 0]
PATHS = ([0, 1, 2, 3, 4], [0, 1, 2, 3, 5, 6], [0, 1, 7, 8], [9, 10], [9, 11])


def tree_tokens():
  rng = np.random.default_rng(3)
  ids = rng.integers(VOCAB, size=14)
  sampled = np.array([0, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0, 0], bool)
  tokens = tokens_of(([list(zip(ids.tolist(), sampled.tolist(), strict=True))],), 14,
                     last=jnp.asarray([LAST], jnp.int32))
  return dataclasses.replace(tokens, position=jnp.asarray([POSITION], jnp.int32),
                             segment=jnp.asarray([[0] * 12 + [-1] * 2], jnp.int32)), ids, sampled


def test_before_follows_the_tree():
  np.testing.assert_array_equal(fwd.before(tree_tokens()[0]), [PARENT])


def test_a_tree_row_equals_its_paths():
  """A shared token says the same in every path through it, and in the tree."""
  tokens, ids, sampled = tree_tokens()
  paths = tokens_of([[[(int(ids[t]), bool(sampled[t])) for t in path]] for path in PATHS], 6)
  tree, linear = (run(PARAMS, t, jnp.float32(.8), actions=9) for t in (tokens, paths))
  for of in (lambda o: o.logp, lambda o: o.entropy, lambda o: o.value['v'], lambda o: o.extra['own']):
    for r, path in enumerate(PATHS):
      np.testing.assert_allclose(np.asarray(of(tree))[0, path], of(linear)[r, :len(path)], rtol=2e-5, atol=2e-6)
  assert np.all(np.asarray(tree.logp)[0][sampled] < 0)


def test_a_head_that_is_not_there():
  with pytest.raises(KeyError, match=r"no value head \['q'\] in params\['heads'\], which has \['v'\]"):
    forward(POLICY, PARAMS, tokens_of(ROWS, 16), heads=('v', 'q'))
  bare = {k: v for k, v in PARAMS.items() if k != 'heads'}
  with pytest.raises(KeyError, match=r"which has \[\]"):
    forward(POLICY, bare, tokens_of(ROWS, 16), heads=('v',))
