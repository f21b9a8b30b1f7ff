"""Pays a step for the way it reasons, where that can be checked: plans that led to success, new actions, mended mistakes."""

import re

from rlx.types import Episode

writes = ('reward/meta',)

TAGS = ('planning', 'explore', 'reflection', 'monitor')


def rlvmr(episode: Episode, *, planning: float = 1., explore: float = 1., reflection: float = 1., penalty: float = 0.,
          channel: str = 'task', action: str | None = 'action', valid: str = 'valid',
          available: str = 'available') -> dict[str, list]:
  """Pays each valid step for the first of these tags that it has (arXiv:2507.22844); <monitor> and no tag get 0.

    <planning>    planning, if the episode's return on `channel` is above 0
    <explore>     explore, unless an earlier valid step of the episode took the same action
    <reflection>  reflection, if the step before was invalid or not available (or there was none) and took another action

  Args:
    episode: its steps have their `reward[channel]`; where one has no verdict, steps that plan have none either.
    planning, explore, reflection: what is paid; all 1 in the released config.
    penalty: the paper's format penalty (-0.1), added on steps that are invalid or have no tag. What is out of form the
      note does not say (ours); the release has none.
    channel: reward channel of the outcome.
    action: tag of the action inside a step, of which all blocks are compared; None: all of the text but the blocks of the
      tags.
    valid: metric of a step that is 0 where its action was malformed; without it the step is valid.
    available: metric that is 0 where its action could not be taken.

  Returns:
    {'meta': one float a step}.

  Source: rhyang2021/CogRouter@b9978adc `rlvmr/core_rlvmr.py::process_trajectory_rlvmr_rewards`.

  Proof: twin.
  """
  outcome = [n.reward.get(channel, 0.) for n in episode.nodes]
  success = None if None in outcome else sum(outcome) > 0
  taken = [_action(n.text, action) for n in episode.nodes]
  good = [n.metrics.get(valid, 1.) > 0 for n in episode.nodes]
  paid = []
  for i, node in enumerate(episode.nodes):
    tag = next((t for t in TAGS if good[i] and f'<{t}>' in node.text), None)
    amount = 0. if tag else penalty
    if tag == 'planning':
      amount = None if success is None else planning * success
    elif tag == 'explore':
      amount = explore * all(taken[j] != taken[i] for j in range(i) if good[j])
    elif tag == 'reflection':
      failed = i == 0 or not (good[i - 1] and episode.nodes[i - 1].metrics.get(available, 1.) > 0)
      amount = reflection * (failed and (i == 0 or taken[i - 1] != taken[i]))
    paid.append(amount)
  return {'meta': paid}


rlvmr.grain = 'episode'


def _action(text, tag):
  if tag is None:
    return re.sub(f'<({"|".join(TAGS)})>.*?</\\1>', '', text, flags=re.DOTALL).strip()
  return re.findall(f'<{re.escape(tag)}>(.*?)</{re.escape(tag)}>', text, re.DOTALL)
