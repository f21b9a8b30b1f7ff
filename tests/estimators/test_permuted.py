"""The control of shuffled credit: the same numbers on the same steps, in another order."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx import toy
from rlx.estimators.permuted import permuted


def twin(adv, live, order):
  """Credited steps in their order get the advantages of credited steps in the drawn order."""
  out, steps = np.zeros_like(adv), np.flatnonzero(live)
  out[steps] = adv[[i for i in order if live[i]]]
  return out


def test_the_same_numbers_in_another_order():
  parent = [-1 if i % 3 == 0 else i - 1 for i in range(30)]
  end = [(0, 0, 1)[i % 3] for i in range(30)]
  end[2], end[5] = 3, 0                               # a failed episode, an abandoned one
  b = toy.batch(parent, end=end, task=0)
  live = np.arange(30) >= 6
  adv = np.where(live, np.arange(30) + 1., 0.).astype(np.float32)
  key = jax.random.key(3)
  got = np.asarray(jax.jit(permuted)(b, jnp.asarray(adv), key=key))
  drawn = np.asarray(jax.random.uniform(key, (30,)))
  np.testing.assert_array_equal(got, twin(adv, live, np.argsort(drawn, kind='stable')))
  assert sorted(got) == sorted(adv) and not got[:6].any()
  assert (got[6:] != adv[6:]).mean() > .5
  other = np.asarray(permuted(b, jnp.asarray(adv), key=jax.random.key(4)))
  assert (other != got).any()
