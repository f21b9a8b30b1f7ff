"""OPRL (iStar): the outcome against the prompt's other episodes, plus an implicit step reward against its other steps."""

import jax.numpy as jnp

from rlx import along, groups, masked, tree
from rlx.types import Array, Batch


def oprl(batch: Batch, *, channel: str = 'task', prm: str = 'prm_logp', ref: str = 'logp', beta: float = 0.05, weight: float = 1.0,
         baseline: str = 'rloo', steps: str = 'all', std: bool = False, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Online process reward learning (arXiv:2509.19199; ICLR 2026 as iStar).

    r_s = beta sum over the tokens of s of (log pi_prm - log pi_ref),   divided by (max |r| of the batch + 1e-6)
    A = A^E + weight A^S
    'rloo':          A^E = (R - mean_g R) n / (n - 1),   A^S = (r - mean r) m / (m - 1)      n episodes, m steps
    'grpo':          R and r less their means, over the deviations too with `std`
    'reinforce_pp':  the same without `std`, each part whitened by itself over the credited tokens, then added

  Args:
    batch: reads `reward[channel]`, `stream[prm]` and `logp` or `stream[ref]`.
    channel: reward channel of the outcome.
    prm: stream with the process reward model's log-probabilities (transform `score`; its loss is `trajectory_dpo`).
    ref: 'logp', the behaviour (what the scripts do), or a stream of a frozen reference.
    beta: of the implicit reward; the division by the largest takes most of it away again.
    weight: of A^S.
    baseline: 'rloo', 'grpo' or 'reinforce_pp'.
    steps: the mean and m of A^S run over 'all' steps of the prompt (paper), or over the 'first' of each rollout (released, against
      its own docstring).
    std: with 'grpo', divide by the deviations (released: not).
    ddof, eps: of these deviations.

  Returns:
    `[N]` f32, `[R, T]` with 'reinforce_pp'; 0 where no ended episode runs through. The only episode of a prompt has A^E = 0, and with
    'rloo' a pool of one step gives A^S = 0.

  Raises:
    ValueError: no such baseline or steps.

  Source: Tongyi-ConvAI/Qwen-Character@1de87a22 `CharacterRL-iStar/istar/core_istar.py::compute_istar_rloo_advantage`,
  `rm_utils.py`, `dp_rm.py::istar_norm`.

  Proof: twin.
  """
  if baseline not in ('rloo', 'grpo', 'reinforce_pp'):
    raise ValueError(f"baseline is 'rloo', 'grpo' or 'reinforce_pp', not {baseline!r}.")
  if steps not in ('all', 'first'):
    raise ValueError(f"steps is 'all' or 'first', not {steps!r}.")
  n, t = batch.nodes, batch.tokens
  ret, on = tree.returns(n, channel)
  live = tree.through(on, n.parent)
  r = jnp.where(live, beta * masked.node_sum(t.stream[prm] - (t.logp if ref == 'logp' else t.stream[ref]), batch), 0.)
  r = r / (jnp.max(jnp.abs(r)) + 1e-6)

  def against(x, s):
    if baseline == 'rloo':
      return (x - s.mean) * jnp.where(s.count > 1, s.count / jnp.maximum(s.count - 1, 1), 0.)
    return (x - s.mean) / (s.std(ddof) + eps if std and baseline == 'grpo' else 1.)
  outcome = tree.leaf_mean(against(ret, groups.group_stats(ret, n.group, on)), on, n.parent)
  pool = live if steps == 'all' else live & (n.parent < 0)
  step = jnp.where(live, against(r, groups.group_stats(r, n.group, pool)), 0.)
  if baseline != 'reinforce_pp':
    return outcome + weight * step
  white = lambda x: along.whitened(tree.above(x, t.node, 0.), t.mask & tree.above(live, t.node, False))
  return white(outcome) + weight * white(step)
