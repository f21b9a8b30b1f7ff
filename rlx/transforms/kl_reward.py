"""The divergence from a reference policy as a reward of each token."""

import dataclasses

import jax.numpy as jnp

from rlx.types import Batch

writes = ('stream/reward',)


def kl_reward(batch: Batch, *, coef: float = 0.001, ref: str = 'ref_logp', behaviour: str = '', kind: str = 'k1',
              into: str = 'reward') -> Batch:
  """Adds a stream with a KL penalty (joschu.net/blog/kl-approx.html), for the estimators that take a `token_reward`.

    r_t = -coef kl_t,   d = ref - behaviour
    k1 = -d      abs = |d|      k2 = d^2 / 2      k3 = clip(exp(e) - e - 1, -10, 10),  e = clip(d, -20, 20)

  Args:
    batch: reads `stream[ref]`, and `stream[behaviour]` or `logp`.
    coef: verl 0.001.
    ref: the stream with the reference's log-probabilities (transform `score`).
    behaviour: the stream with the policy's; '' for `logp`, those of sampling.
    kind: 'k1', 'k2', 'k3' or 'abs'.
    into: name of the stream, 0 outside the trained tokens.

  Raises:
    ValueError: no such kind.

  Source: verl-project/verl@1dda039 `core_algos.py::kl_penalty`.

  Proof: golden.
  """
  if kind not in ('k1', 'k2', 'k3', 'abs'):
    raise ValueError(f"kl_reward has the kinds 'k1', 'k2', 'k3' and 'abs', not {kind!r}.")
  t = batch.tokens
  d = jnp.where(t.mask, t.stream[ref] - (t.stream[behaviour] if behaviour else t.logp), 0.)
  if kind == 'k3':
    d = jnp.clip(d, -20, 20)
    kl = jnp.clip(jnp.exp(d) - d - 1, -10, 10)
  else:
    kl = dict(k1=-d, k2=.5 * jnp.square(d), abs=jnp.abs(d))[kind]
  streams = dict(t.stream) | {into: -coef * kl}
  return dataclasses.replace(batch, tokens=dataclasses.replace(t, stream=streams))
