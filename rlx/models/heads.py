"""Small learned parts that read the policy's hidden states: `c.heads = dict(value=dict(name='mlp_head', width=128))`.

A loss or a `score` transform names a head by a string; its parameters are `params['heads'][name]`. One that `c.heads` does not
name is a `value_head`. Anything that gives a `Head` will do, for example a dotted name from your own package.
"""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax.numpy as jnp

__all__ = ('mlp_head', 'value_head')   # what a config may name


class Head(NamedTuple):
  """`init(key, hidden) -> params`; `apply(params, hidden [..., D]) -> [...]` f32."""
  init: Callable
  apply: Callable


def value_head() -> Head:
  """A linear value: hidden @ kernel + bias, in float32, 0 everywhere at the start.

  Parameters are dict(kernel `[D, 1]`, bias `[1]`).

  Proof: twin.
  """
  return from_module(nn.Dense(1, kernel_init=nn.initializers.zeros, dtype=jnp.float32))


def mlp_head(*, width: int = 256, depth: int = 1) -> Head:
  """A value from hidden layers: h <- silu(h @ kernel + bias), `depth` times, then a linear value; in float32, 0 at the start.

  Args:
    width: units of a hidden layer.
    depth: hidden layers.

  Raises:
    ValueError: a width or a depth below 1.

  Proof: twin.
  """
  if width < 1 or depth < 1:
    raise ValueError(f'width={width} and depth={depth} must be at least 1; for a linear value take value_head')
  hidden = [layer for _ in range(depth) for layer in (nn.Dense(width, dtype=jnp.float32), nn.silu)]
  return from_module(nn.Sequential([*hidden, nn.Dense(1, kernel_init=nn.initializers.zeros, dtype=jnp.float32)]))


def from_module(module: nn.Module) -> Head:
  """The head of a flax module that maps `[..., D]` to `[..., 1]`; it is 0 at the start only if the module is."""
  return Head(lambda key, hidden: module.init(key, hidden)['params'],
              lambda params, hidden: module.apply(dict(params=params), hidden)[..., 0])
