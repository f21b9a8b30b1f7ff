"""TRUST-SQL's credit for one loss: the answer's advantage everywhere, more of it, or another one beside it, up to the schema."""

import jax.numpy as jnp

from rlx import tree
from rlx.estimators.grpo import grpo
from rlx.types import Array, Batch


def trust_sql(batch: Batch, adv: Array, *, form: str = 'sum', weight: float = 0.5, channel: str = 'schema', label: str = 'schema',
              clip: float = 10.0, eps: float = 1e-6) -> Array:
  """The two ways of the release that need no second loss (arXiv:2603.16448; modulator, behind `grpo` with ddof=0 and clip=10).

    sum:    A' = A + weight A_sch        scale:  A' = A (1 + weight R_sch)        up to the last proposal of a schema, A'  = A behind it

  R_sch: what the schema was paid, A_sch: `grpo` of it (population deviation, clipped). The paper's own form, and the release's with its
  flag, has two losses, each averaged over its own tokens: that is the config `trust_sql`, two tracks. Here all tokens share one average.

  Args:
    batch: reads `reward[channel]`, summed along the path, and `label[label]`.
    adv: `[N]`, the answer's.
    form: 'sum' or 'scale'; the release scales where no flag is given.
    weight: lambda; 0.5 in the release's script, 0.25 in the paper.
    channel: reward channel of the schema.
    label: above 0 on the steps up to the last proposal; as the environment says where there is none (the release: up to the last
      exploration, with R_sch 0).
    clip, eps: of A_sch.

  Returns:
    `[N]` f32; on a shared step R_sch is the mean over the episodes through it.

  Raises:
    ValueError: no such form.

  Source: stulove123/TRUST-SQL-@8cf260a0 (a third party's mirror) `TrustSQL/slime/backends/megatron_utils/loss.py::
  get_grpo_returns_weighted_schema_answer`, `compute_advantages_schema_reward_weighted`.

  Proof: twin.
  """
  if form not in ('sum', 'scale'):
    raise ValueError(f"form is 'sum' or 'scale', not {form!r}.")
  n = batch.nodes
  if form == 'sum':
    more = weight * grpo(batch, channel=channel, ddof=0, eps=eps, clip=clip)
  else:
    ret, on = tree.returns(n, channel)
    more = adv * weight * tree.leaf_mean(jnp.where(on, ret, 0.), on, n.parent)
  return adv + jnp.where(n.label[label] > 0, more, 0.)
