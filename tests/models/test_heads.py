"""The value head."""

import jax
import jax.numpy as jnp
import numpy as np

from rlx.models.heads import value_head


def test_value_head():
  head = value_head()
  params = head.init(jax.random.key(0), jnp.zeros((1, 3)))
  assert jax.tree.map(jnp.shape, params) == dict(kernel=(3, 1), bias=(1,))
  hidden = jax.random.normal(jax.random.key(1), (2, 5, 3))
  np.testing.assert_array_equal(head.apply(params, hidden), np.zeros((2, 5)))
  params = dict(kernel=jnp.array([[1.], [-2.], [.5]]), bias=jnp.array([.25]))
  want = hidden[..., 0] - 2 * hidden[..., 1] + .5 * hidden[..., 2] + .25
  np.testing.assert_allclose(head.apply(params, hidden), want, rtol=1e-5, atol=1e-6)
  assert head.apply(params, hidden.astype(jnp.bfloat16)).dtype == jnp.float32
