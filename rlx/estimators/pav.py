"""PAV: the outcome of an episode, plus the progress that each step made under a prover."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def pav(batch: Batch, *, channel: str = 'task', value: str = 'prover', alpha: float = 1.0,
        best_of: int | None = 4, std: bool = False, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Effective rewards with a process advantage (arXiv:2410.08146).

    A_s = (R - mean_g R) + alpha (V(after s) - V(before s)),   V = 1 - (1 - p)^K

  p: the chance of the policy to be right from there on, V that of the best of K tries: the prover, which must not be the
  policy itself and makes small progress of a weak policy large. Progress counts on its own step only: summed along a path it
  would be the same for all paths of equal outcome. Where the episode ends V is its return.

  The effective reward and the prover are the paper's; the mean as the outcome's baseline, and the numbers K and alpha (it is
  tuned for each model), are ours.

  Args:
    batch: reads `reward[channel]`, summed along the path, a right answer 1 and a wrong one 0; `value[value]` `[N]`, p below
      each step, and `prompt[value]` `[G]`, p before the first one (probe `prover`). Steps that a segmenter cuts have no p.
    channel: reward channel.
    value: name of p.
    alpha: weight of the progress.
    best_of: K; None: the prover is the policy, V = p.
    std, ddof, eps: whether the outcome's part is divided by the group's deviation (ours), and how.

  Returns:
    `[N]` f32; 0 where no ended episode runs through. A shared step has the mean over its episodes in the outcome's part.

  Proof: guess: alpha, K and the baseline of the outcome.
  """
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  amplified = lambda p: p if best_of is None else 1 - (1 - jnp.clip(p, 0, 1))**best_of
  after = jnp.where(on, ret, amplified(n.value[value]))
  progress = after - tree.above(after, n.parent, amplified(batch.prompt[value])[n.group])
  outcome = tree.leaf_mean(groups.group_norm(ret, n.group, on, std=std, ddof=ddof, eps=eps), on, n.parent)
  return jnp.where(tree.through(on, n.parent), outcome + alpha * progress, 0.)
