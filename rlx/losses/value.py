"""The regression of a value head on an estimator's targets."""

import jax.numpy as jnp

from rlx.types import Loss


def value(*, head: str = 'value', clip: float | None = None) -> Loss:
  """Squared error of a value head (arXiv:1707.06347), one value a token.

    l = (V - R)^2 / 2,   with `clip` max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2

  Args:
    head: the head V; R is `stream['target/<head>']`, V_old is `stream['value/<head>']` (read only with `clip`).
    clip: how far V may move from V_old; verl 0.5, None: no limit.

  Source: verl-project/verl@1dda039 `core_algos.py::compute_value_loss`.

  Proof: twin.
  """
  def term(out, batch, adv, stats):
    del adv, stats
    t = batch.tokens
    target = t.stream[f'target/{head}']
    v = out.value[head]
    loss = jnp.square(jnp.where(t.mask, v - target, 0.))
    if clip is not None:
      before = t.stream[f'value/{head}']
      near = jnp.clip(v, before - clip, before + clip)
      loss = jnp.maximum(loss, jnp.square(jnp.where(t.mask, near - target, 0.)))
    return .5 * loss
  return Loss(term, local=True, heads=(head,))
