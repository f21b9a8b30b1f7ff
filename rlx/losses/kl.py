"""The divergence from a reference policy, estimated on the sampled tokens."""

import jax
import jax.numpy as jnp

from rlx.types import Loss

KINDS = ('k1', 'k2', 'k3')


def kl(*, kind: str = 'k3', reference: str = 'ref_logp') -> Loss:
  """Per-token estimates of KL(policy, reference) (joschu.net/blog/kl-approx.html), d = reference - logp.

    k1 = -d        k2 = d^2 / 2        k3 = clip(exp(clip(d, -20, 20)) - d - 1, -10, 10)

  With a '+' behind it the value is that of the estimator and the gradient that of k2, whose mean is the gradient of the
  divergence (that of k1 has mean 0, that of k3 is biased). The coefficient belongs to the track.

  Args:
    kind: 'k1', 'k2', 'k3', 'k1+', 'k2+' or 'k3+'.
    reference: the stream with the reference's log-probabilities (transform `score`).

  Raises:
    ValueError: no such kind.

  Source: verl-project/verl@1dda039 `core_algos.py::kl_penalty`.

  Proof: golden.
  """
  name = kind.removesuffix('+')
  if name not in KINDS:
    raise ValueError(f"kl has the kinds {', '.join(KINDS)}, each also with a '+'; not {kind!r}.")

  def term(out, batch, adv, stats):
    del adv, stats
    t = batch.tokens
    d = jnp.where(t.mask, t.stream[reference] - out.logp, 0.)
    square = .5 * jnp.square(d)
    if name == 'k3':
      small = jnp.clip(d, -20, 20)
      value = jnp.clip(jnp.exp(small) - small - 1, -10, 10)
    else:
      value = dict(k1=-d, k2=square)[name]
    return square + jax.lax.stop_gradient(value - square) if kind.endswith('+') else value
  return Loss(term, local=True)
