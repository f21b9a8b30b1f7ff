"""The public `linear_logp` and its implementations."""

from collections.abc import Callable, Mapping

import chex
import jax

from pallas_kernels.linear_logp import reference
from pallas_kernels.linear_logp import xla

IMPLEMENTATIONS = {'reference': reference.linear_logp, 'xla': xla.linear_logp}
DEFAULT = 'xla'


def linear_logp(hidden: jax.Array, weight: jax.Array, ids: jax.Array, *, temperature=1.,
                extra: Mapping[str, Callable] = {}, tied: bool = False, implementation: str | None = None):
  """Log-probability of each id and entropy of its distribution, from hidden states and the head.

    z = hidden @ weight / temperature     logp = z_id - log sum exp z     entropy = -sum_v p_v log p_v

  The head is cast to the hidden states' dtype, products are summed in float32, and everything after them is float32.

  Args:
    hidden: `[..., D]`.
    weight: `[D, V]`.
    ids: `[...]` i32 in [0, V).
    temperature: scalar, or `[...]` for one of each token's own; may be traced, has a gradient.
    extra: name -> `fn(logits [V] f32, id) -> f32 scalar`, evaluated on the logits (divided by the temperature) while they
      exist. Gradients flow through it, and to floating-point arrays it closes over.
    tied: the weight is the transpose of a `[V, D]` table (`table.T`): the same values and gradients, without a copy of the table.
    implementation: 'reference' holds all logits at once, 'xla' those of one chunk. None: 'xla'.

  Returns:
    (logp `[...]` f32, entropy `[...]` f32), and with `extra` a third: name -> `[...]` f32.

  Raises:
    ValueError: an implementation that does not exist; the message lists those that do.
  """
  name = implementation or DEFAULT
  if name not in IMPLEMENTATIONS:
    raise ValueError(f"linear_logp has no implementation '{name}'; it has {sorted(IMPLEMENTATIONS)}")
  chex.assert_rank(weight, 2)
  chex.assert_equal_shape_prefix((hidden, ids), ids.ndim)
  chex.assert_shape(hidden, (*ids.shape, weight.shape[0]))
  if getattr(temperature, 'ndim', 0):
    chex.assert_equal_shape((temperature, ids))
    temperature = temperature.ravel()
  logp, entropy, values = IMPLEMENTATIONS[name](
      hidden.reshape(-1, weight.shape[0]), weight, ids.ravel(), temperature=temperature, extra=extra, tied=tied)
  back = lambda x: x.reshape(ids.shape)
  if extra:
    return back(logp), back(entropy), jax.tree.map(back, values)
  return back(logp), back(entropy)
