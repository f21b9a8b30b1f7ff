"""Finished prompts to numbers: what every run reports of its episodes."""

from collections.abc import Callable, Sequence

import numpy as np

from rlx import walk
from rlx.types import Group


def summarise(groups: Sequence[Group], channel: str = 'task', score: Callable | None = None) -> dict[str, float]:
  """Means over the episodes of a step.

  Args:
    groups: finished prompts.
    channel: the reward that says whether an episode was right.
    score: the environment's `(task, episode) -> {name: float}`; its 'accuracy' is the success.

  Returns:
    `reward/<channel>` summed over each episode; `success`: the score's 'accuracy', otherwise the mean of the metric 'correct',
    otherwise the share of returns on `channel` above 0.5; the other scores by their names; `zero_variance` share of prompts whose returns are all equal; `turns`; `cut_off`, `failed`
    shares of all ends; `valid_action` share of actions the environment could read; `env/<name>` sums of its other metrics, means over
    episodes; `backstops` of all steps, failed ones too; counts of prompts' events as `grow/<name>`.
  """
  episodes = [e for g in groups for e in walk.episodes(g)]
  ends = [n.end for g in groups for n in g.nodes if n.end]
  n = max(len(episodes), 1)
  channels = sorted({c for e in episodes for node in e.nodes for c in node.reward})
  ret = {c: np.asarray([sum(node.reward.get(c) or 0. for node in e.nodes) for e in episodes]) for c in channels}
  metrics: dict[str, float] = {}
  for e in episodes:
    for node in e.nodes:
      for k, v in node.metrics.items():
        metrics[k] = metrics.get(k, 0.) + v
  metrics.pop('backstop', None)        # it ends an episode as failed, so it is counted over all steps
  backstops = float(sum(node.metrics.get('backstop', 0.) for g in groups for node in g.nodes))
  steps = sum(len(e.nodes) for e in episodes)
  out = {f'reward/{c}': float(r.mean()) if len(r) else 0. for c, r in ret.items()}
  if 'correct' in metrics:
    out['success'] = metrics.pop('correct') / n
  elif channel in ret and len(ret[channel]):
    out['success'] = float((ret[channel] > .5).mean())
  if score is not None and episodes:
    scores = [score(e.task, e) for e in episodes]
    means = {k: float(np.mean([s.get(k, 0.) for s in scores])) for k in dict.fromkeys(k for s in scores for k in s)}
    out['success'] = means.pop('accuracy', out.get('success', 0.))
    out |= means
    for k in means:
      metrics.pop(k, None)
  spread = []
  for g in groups:
    r = [sum(node.reward.get(channel) or 0. for node in e.nodes) for e in walk.episodes(g)]
    spread.append(len(r) < 2 or max(r) == min(r))
  out.update(zero_variance=float(np.mean(spread)) if spread else 1., turns=steps / n,
             cut_off=ends.count(2) / max(len(ends), 1), failed=ends.count(3) / max(len(ends), 1), episodes=float(len(episodes)), backstops=backstops)
  if 'valid' in metrics:
    out['valid_action'] = metrics.pop('valid') / max(steps, 1)
  out.update({f'env/{k}': v / n for k, v in metrics.items()})
  for g in groups:
    for k, v in g.metrics.items():
      out[f'grow/{k}'] = out.get(f'grow/{k}', 0.) + v
  return out
