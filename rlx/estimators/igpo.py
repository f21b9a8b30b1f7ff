"""IGPO: a turn is paid by how much likelier it made the right answer."""

import jax
import jax.numpy as jnp

from rlx import along, groups, tree
from rlx.types import Array, Batch


def igpo(batch: Batch, *, channel: str = 'task', probe: str = 'p_answer', mode: str = 'separate', gamma: float = 1.0,
         gaps: str = 'carry', log: bool = False, ddof: int = 1, eps: float = 1e-6) -> Array:
  """Information gain as a reward of each turn (arXiv:2510.14967).

    IG_s = p_s - p_{s-1},   p = exp(mean log pi(answer | the path up to and with s)),   p_0 below the question alone
    r_s = IG_s on a step that goes on, the return R of the episode on its last step
    'separate':  A_s = sum_{k >= s} gamma^{k-s} z_k,   z: r less its mean, over its deviation, IG and R each by themselves
    'joint':     the same, with one mean and one deviation for both
    'released':  A_t = G_t - mean over the prompt's episodes of G at the same position,   G_t = r_t + gamma G_{t+1}

  'separate' is the ICLR 2026 text, 'joint' the first version on arXiv as remembered, 'released' what the released script calls:
  it divides by nothing, and an episode that is over counts 0 at later positions. Statistics are those of a prompt; a step that
  several episodes share counts once in them (ours, the paper has no branches) and gets the mean over its episodes.

  Args:
    batch: reads `reward[channel]`, `value[probe]` `[N]` and `prompt[probe]` `[G]`, the mean log-probability of the answer (probe
      `answer`). A probe that did not fit has the value 0, which is a probability of 1: give the sampler room.
    channel: reward channel of the outcome (F1 in the paper, -2 where the format is broken).
    probe: name of the probe.
    mode: 'separate', 'joint' or 'released'.
    gamma: per step; per trained token in 'released' (which has 1).
    gaps: in 'released', at tokens that are not trained: 'carry' the return on (what the scripts do: their mask holds the tools'
      words too), or 'reset' it to 0, so that no turn gets what a later one earns.
    log: the gain is that of the mean log-probability (second version of the text), not of its exponential.
    ddof, eps: of the deviations; ours (torch's std).

  Returns:
    `[N]` f32; `[R, T]` with 'released'. 0 where no ended episode runs through.

  Raises:
    ValueError: no such mode or gaps.

  Source: GuoqingWang1/IGPO@bff163b7 `scrl/llm_agent/generation.py::run_llm_loop`,
  `verl/trainer/ppo/core_algos.py::compute_grpo_outcome_advantage`.

  Proof: twin; guess: the details of 'joint', and the deviation that the text divides by.
  """
  if mode not in ('separate', 'joint', 'released'):
    raise ValueError(f"mode is 'separate', 'joint' or 'released', not {mode!r}.")
  if gaps not in ('carry', 'reset'):
    raise ValueError(f"gaps is 'carry' or 'reset', not {gaps!r}.")
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  live, count = tree.through(on, n.parent), tree.fold_up(on.astype(jnp.float32), n.parent)
  p, start = n.value[probe], batch.prompt[probe][n.group]
  p, start = (p, start) if log else (jnp.exp(p), jnp.exp(start))
  reward = jnp.where(on, ret, p - tree.above(p, n.parent, start))
  if mode == 'released':
    return _aligned(batch, jnp.where(live, reward, 0.), on, count, gamma, 1. if gaps == 'carry' else 0., batch.prompt[probe].shape[0])
  norm = lambda where: groups.group_norm(reward, n.group, where, std=True, ddof=ddof, eps=eps)
  z = norm(live) if mode == 'joint' else norm(on) + norm(live & ~on)
  return tree.fold_up(count * z, n.parent, gamma) / jnp.maximum(count, 1)


def _aligned(batch, reward, on, count, gamma, carry, prompts):
  """`[R, T]` returns to go, less the mean over the prompt's episodes at the same position."""
  n, t = batch.nodes, batch.tokens
  live, width = count > 0, t.node.shape[1]
  new = (t.node[:, 1:] != t.node[:, :-1]) | (t.segment[:, 1:] != t.segment[:, :-1])
  first = jnp.pad(new, ((0, 0), (1, 0)), constant_values=True)
  # `ahead` takes the mean over next steps; weighed like this at their first tokens it is the mean over episodes
  weight = count / jnp.maximum(tree.above(count, n.parent, 1.) * tree.share(n.parent, live), 1e-8)
  enter = jnp.where(first, tree.above(weight, t.node, 1.), 1.)
  decay = jnp.where(t.mask, gamma, carry)
  r = jnp.where(along.last_token(batch), tree.above(reward, t.node, 0.), 0.)
  back = r + decay * along.ahead(enter * r, enter * decay, batch, live, idle=(weight * carry * reward, weight * carry))
  back = jnp.where(tree.above(live, t.node, False), back, 0.)
  at = tree.above(n.group, t.node, 0) * width + t.position
  total = jax.ops.segment_sum((back * tree.above(count, t.node, 0.)).ravel(), at.ravel(), prompts * width)
  episodes = jax.ops.segment_sum(on.astype(jnp.float32), n.group, prompts)
  mean = total[at] / jnp.maximum(episodes, 1)[tree.above(n.group, t.node, 0)]
  return jnp.where(t.mask & tree.above(live, t.node, False), back - mean, 0.)
