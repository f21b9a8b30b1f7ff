"""The public `linear_policy_loss` and its implementations."""

from collections.abc import Callable, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp

from pallas_kernels.linear_policy_loss import reference
from pallas_kernels.linear_policy_loss import xla

IMPLEMENTATIONS = {'reference': reference.linear_policy_loss, 'xla': xla.linear_policy_loss}
DEFAULT = 'xla'


def linear_policy_loss(hidden: jax.Array, weight: jax.Array, ids: jax.Array, term: Callable, args: Any = (), *, temperature=1.,
                       extra: Mapping[str, Callable] = {}, tied: bool = False, implementation: str | None = None):
  """Sum of a loss over tokens that needs of the model only each token's own log-probability, entropy and extras.

    L = sum_i term(logp_i, entropy_i, extra_i, args_i)     logp, entropy, extra as in `linear_logp`

  Because `term` is elementwise, dL/d(logits) of some tokens is known as soon as their logits are: the gradient takes three
  products with the head instead of four, and logits are made once (Liger-Kernel's FusedLinear losses, arXiv:2410.10989).

  Args:
    hidden: `[..., D]`.
    weight: `[D, V]`.
    ids: `[...]` i32 in [0, V).
    term: `(logp [t], entropy [t], {name: [t]}, args of these tokens) -> [t]` f32. It is called on chunks of tokens, in any
      order; the last one is filled up with a token it holds, whose answer there is not used.
    args: tree of arrays `[..., ...]` that begin with the dims of ids.
    temperature, extra, tied: as in `linear_logp`.
    implementation: 'reference' | 'xla'. None: 'xla'.

  Returns:
    (L `[]` f32, logp `[...]`, entropy `[...]`, name -> `[...]`). L has a gradient to hidden and weight; everything else that goes
    in is held constant, and what comes out beside L has none.

  Raises:
    ValueError: an implementation that does not exist; the message lists those that do.
  """
  name = implementation or DEFAULT
  if name not in IMPLEMENTATIONS:
    raise ValueError(f"linear_policy_loss has no implementation '{name}'; it has {sorted(IMPLEMENTATIONS)}")
  chex.assert_rank(weight, 2)
  chex.assert_shape(hidden, (*ids.shape, weight.shape[0]))
  chex.assert_tree_shape_prefix(args, ids.shape)
  flat = lambda x: x.reshape(-1, *x.shape[ids.ndim:])
  temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), ids.shape)
  loss, *columns = IMPLEMENTATIONS[name](flat(hidden), weight, ids.ravel(), term, jax.tree.map(flat, args),
                                         temperature=temperature.ravel(), extra=extra, tied=tied)
  return loss, *jax.tree.map(lambda x: x.reshape(ids.shape), columns)
