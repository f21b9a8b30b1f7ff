"""Steps to tokens and back, and sums along a sequence in packed rows."""

import jax.numpy as jnp
import numpy as np

from rlx import average, masked, toy

TREE = dict(parent=[-1, 0, 0, -1], n_tokens=[2, 1, 3, 2], n_obs=[0, 1, 1, 0], task=0)   # paths 0-1, 0-2 and 3


def close(got, want, tol=1e-6):
  np.testing.assert_allclose(np.asarray(got), want, atol=tol, rtol=0)


def test_to_tokens_reaches_trained_tokens_only():
  b = toy.batch(**TREE)
  got = masked.to_tokens(jnp.asarray([1., 2., 3., 4.]), b.tokens)
  close(got, [[1, 1, 0, 2, 0, 0], [0, 0, 0, 3, 3, 3], [4, 4, 0, 0, 0, 0]])
  assert masked.to_tokens(jnp.asarray([1, 2, 3, 4]), b.tokens).dtype == jnp.int32


def test_node_sum_and_mean():
  b = toy.batch(**TREE)
  x = jnp.arange(18, dtype=jnp.float32).reshape(3, 6)
  close(masked.node_sum(x, b), [0 + 1, 3, 9 + 10 + 11, 12 + 13])
  close(masked.node_mean(x, b), [.5, 3, 10, 12.5])
  empty = toy.batch(parent=[-1, 0], n_tokens=[0, 1], task=0)
  close(masked.node_mean(jnp.ones((1, 1)), empty), [0, 1])


def test_round_trip():
  b = toy.batch(**TREE, pack=2)
  x = jnp.asarray([1., -2., 3., .5])
  close(masked.node_mean(masked.to_tokens(x, b.tokens), b), x)


def test_a_shared_prefix_belongs_to_the_path_but_is_owned_once():
  b = toy.batch(parent=[-1, 0, 0], task=[0, 1, 0])
  d = jnp.asarray([[.4, .2], [.4, -.6]])
  close(masked.segment_mean(d, b.tokens, over='path'), [[.3, .3], [-.1, -.1]])
  close(masked.segment_mean(d, b.tokens, over='owned'), [[.3, .3], [-.6, -.6]])


def test_packed_sequences_are_summed_apart():
  alone, packed = toy.batch(**TREE), toy.batch(**TREE, pack=3)
  x = jnp.arange(18, dtype=jnp.float32).reshape(3, 6)
  flat = jnp.concatenate([x[0, :4], x[1], x[2, :2]])[None]
  for over in ('owned', 'path'):
    for reduce in (masked.segment_sum, masked.segment_mean):
      want = reduce(x, alone.tokens, over=over)
      want = np.concatenate([want[0, :4], want[1], want[2, :2]])[None]
      close(reduce(flat, packed.tokens, over=over), want)
  close(masked.segment_sum(x, alone.tokens, over='owned')[2], [25, 25, 0, 0, 0, 0])   # 0 on padding


def test_sum_of_another_sequence():
  b = toy.batch(parent=[-1] * 4, n_tokens=[1, 2, 2, 1], task=0, pack=2)
  x = jnp.asarray([[1., 2, 3], [4, 5, 6]])
  got = masked.segment_sum(x, b.tokens, over='path', of=b.tokens.segment ^ 1)
  close(got, [[5, 1, 1], [6, 6, 9]])


def test_narrow_is_what_a_loss_sees():
  b = toy.batch(**TREE)
  keep = b.tokens.mask & (b.tokens.node == 2)
  assert (masked.narrow(b, keep).tokens.mask == keep).all() and b.tokens.mask.sum() == 8


# ---- averages ------------------------------------------------------------------------------------------------------

def mean(of, loss, batch, keep=None):
  num, den = of(batch, batch.tokens.mask if keep is None else keep)
  return float(jnp.sum(loss * num) / jnp.sum(den))


def test_averages_of_the_sheet():
  """l = [[1, 2, 3, .], [4, ., ., .]]: 2.5, 3 and, over the constant 4, 1.25; losses outside the mask are 9."""
  b = toy.batch(parent=[-1, -1], n_tokens=[3, 1], task=0)
  loss = jnp.asarray([[1., 2, 3], [4, 9, 9]])
  close(mean(average.token_mean, loss, b), 2.5)
  close(mean(average.seq_mean, loss, b), 3)
  close(mean(average.turn_mean, loss, b), 3)
  close(mean(average.constant(length=4.), loss, b), 1.25)
  close(mean(average.original_tokens, loss, b), 2.5)


def test_dropped_tokens_leave_the_denominator_or_not():
  b = toy.batch(parent=[-1, -1], n_tokens=[3, 1], task=0)
  loss = jnp.asarray([[1., 2, 3], [4, 9, 9]])
  keep = b.tokens.mask & jnp.asarray([[1, 1, 0], [0, 0, 0]], bool)   # the second sequence is gone
  close(mean(average.token_mean, loss, b, keep), 1.5)
  close(mean(average.seq_mean, loss, b, keep), 1.5)
  close(mean(average.turn_mean, loss, b, keep), 1.5)
  close(mean(average.constant(length=4.), loss, b, keep), .75)
  close(mean(average.original_tokens, loss, b, keep), .75)


def test_turns_and_sequences_weigh_differently():
  """One sequence of turns with 1 and 3 tokens, one of a single turn."""
  b = toy.batch(parent=[-1, 0, -1], n_tokens=[1, 3, 1], task=0)
  loss = jnp.asarray([[8., 0, 0, 0], [2, 0, 0, 0]])
  close(mean(average.token_mean, loss, b), 2)
  close(mean(average.seq_mean, loss, b), (8 / 4 + 2) / 2)
  close(mean(average.turn_mean, loss, b), (8 + 0 + 2) / 3)


def test_averages_do_not_see_packing():
  rng = np.random.default_rng(0)
  shape = dict(parent=[-1, 0, 0, -1], n_tokens=[2, 1, 3, 2], task=0)
  alone, packed = toy.batch(**shape), toy.batch(**shape, pack=3)
  loss = {(int(n), int(k)): rng.normal() for n in range(4) for k in range(3)}

  def spread(b):   # the loss of a token is known by its step and its number in it
    node, mask = np.asarray(b.tokens.node), np.asarray(b.tokens.mask)
    out, seen = np.zeros(node.shape, np.float32), {}
    for r, c in zip(*np.nonzero(mask), strict=True):
      k = seen.setdefault(node[r, c], 0)
      out[r, c], seen[node[r, c]] = loss[(node[r, c], k)], k + 1
    return jnp.asarray(out)

  for of in (average.token_mean, average.seq_mean, average.turn_mean, average.constant(length=5.), average.original_tokens):
    close(mean(of, spread(packed), packed), mean(of, spread(alone), alone))
