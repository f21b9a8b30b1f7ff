"""Heads of hidden states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.models.heads import mlp_head, value_head


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


def test_mlp_head():
  head = mlp_head(width=4, depth=2)
  params = head.init(jax.random.key(0), jnp.zeros((1, 3)))
  assert jax.tree.map(jnp.shape, params) == {
      'layers_0': dict(kernel=(3, 4), bias=(4,)), 'layers_2': dict(kernel=(4, 4), bias=(4,)), 'layers_4': dict(kernel=(4, 1), bias=(1,))}
  hidden = jax.random.normal(jax.random.key(1), (2, 5, 3))
  np.testing.assert_array_equal(head.apply(params, hidden), np.zeros((2, 5)))
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(np.float32), params)
  y = np.asarray(hidden, np.float64)
  for name in ('layers_0', 'layers_2'):
    y = y @ params[name]['kernel'] + params[name]['bias']
    y = y / (1 + np.exp(-y))
  want = (y @ params['layers_4']['kernel'] + params['layers_4']['bias'])[..., 0]
  np.testing.assert_allclose(head.apply(params, hidden), want, rtol=1e-4, atol=1e-5)
  assert head.apply(params, hidden.astype(jnp.bfloat16)).dtype == jnp.float32
  for kw in (dict(width=0), dict(depth=0)):
    with pytest.raises(ValueError, match='must be at least 1; for a linear value take value_head'):
      mlp_head(**kw)
