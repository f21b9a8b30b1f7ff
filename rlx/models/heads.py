"""Small learned parts that read the policy's hidden states."""

from collections.abc import Callable
from typing import NamedTuple

from flax import linen as nn
import jax.numpy as jnp


class Head(NamedTuple):
  """`init(key, hidden) -> params`; `apply(params, hidden [..., D]) -> [...]` f32."""
  init: Callable
  apply: Callable


def value_head() -> Head:
  """A linear value: hidden @ kernel + bias, in float32, 0 everywhere at the start.

  Parameters are dict(kernel `[D, 1]`, bias `[1]`).
  """
  module = nn.Dense(1, kernel_init=nn.initializers.zeros, dtype=jnp.float32)
  return Head(lambda key, hidden: module.init(key, hidden)['params'],
              lambda params, hidden: module.apply(dict(params=params), hidden)[..., 0])
