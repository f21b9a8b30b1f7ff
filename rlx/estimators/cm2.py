"""CM2: a turn's checklist reward against the same turn of the other rollouts."""

import jax.numpy as jnp

from rlx import groups, tree
from rlx.types import Array, Batch


def cm2(batch: Batch, *, channel: str = 'turn', turn: str = 'turn', holders: int = 5, std: bool = False, ddof: int = 1,
        eps: float = 1e-6) -> Array:
  """Turn-indexed advantages from checklist rewards (arXiv:2602.12268).

    A_ik = (u_ik - mean_k u) / F_k,   k: the k-th turns of the prompt's rollouts, F_k: 1, or their deviation + eps with `std`

  Each turn sees its own reward only: no return of what follows.

  Args:
    batch: reads `reward[channel]` and `label[turn]`.
    channel: reward channel, paid turn by turn.
    turn: the label with the number of the turn.
    holders: a turn that fewer steps have is left out (4 or fewer as released).
    std: divide by the deviation.
    ddof: 1 as released (torch's std).
    eps: added to the deviation.

  Returns:
    `[N]` f32; 0 where a turn has too few holders and where no ended episode runs through. An episode with a verdict missing
    anywhere is out, as a failed judge or a failed simulated tool takes it out there; a step it shares with another stays. A
    shared step is one holder.

  Source: namezhenzhang/CM2-RLCR-Tool-Agent@2758991a `verl/trainer/ppo/core_algos.py::compute_checklist_step_advantage`.

  Proof: twin.
  """
  n = batch.nodes
  live = tree.through(tree.returns(n, channel)[1], n.parent)
  same = groups.dense_ids(n.group, n.label[turn])
  adv = groups.group_norm(n.reward[channel], same, live, std=std, ddof=ddof, eps=eps)
  return jnp.where(groups.group_stats(adv, same, live).count >= holders, adv, 0.)
