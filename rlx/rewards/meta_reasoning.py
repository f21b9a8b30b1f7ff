"""Pays a step for tagged meta-reasoning by what can be seen of it: a plan by success, exploring by news, reflecting by a change."""

import re
from collections.abc import Mapping

from rlx.types import Episode

writes = ('reward/meta',)

PAY = dict(plan=1., explore=1., reflect=1.)


def meta_reasoning(episode: Episode, *, pay: Mapping[str, float] = PAY, channel: str = 'task') -> dict[str, list]:
  """Pays each step for the first tag that opens in it, by rules that read nothing but the episode's texts and its outcome.

    <plan>     pay['plan'],     if the episode's return on `channel` is above 0
    <explore>  pay['explore'],  if what is observed after the step was not observed before in the episode
    <reflect>  pay['reflect'],  if what was observed after the step before was no news, and this step says something else than that one

  From a line that names the idea alone (rule-based rewards for tagged meta-reasoning: plan, explore, reflect); `rlvmr` is the method as
  released, which asks the environment whether an action was valid and available. The end of an episode is no news.

  Args:
    episode: its steps have their `reward[channel]`; where one has no verdict, steps that plan have none either.
    pay: what a step of each tag is paid; a tag that is missing is paid nothing.
    channel: reward channel of the outcome.

  Returns:
    {'meta': one float a step}.

  Raises:
    ValueError: `pay` names another tag.

  Proof: guess: every rule.
  """
  if unknown := set(pay) - set(PAY):
    raise ValueError(f"pay names the tag '{sorted(unknown)[0]}'; there are {', '.join(PAY)}.")
  nodes = episode.nodes
  outcome = [n.reward.get(channel, 0.) for n in nodes]
  success = None if None in outcome else sum(outcome) > 0
  seen = [n.obs.strip() for n in nodes]
  news = [j + 1 < len(nodes) and seen[j + 1] not in seen[:j + 1] for j in range(len(nodes))]
  said = [re.sub(r'<(plan|explore|reflect)>.*?</\1>', '', n.text, flags=re.DOTALL).strip() for n in nodes]
  paid = []
  for j, node in enumerate(nodes):
    opened = re.search('<(plan|explore|reflect)>', node.text)
    tag = opened[1] if opened else None
    if tag == 'plan' and success is None:
      paid.append(None)
      continue
    earned = dict(plan=success, explore=news[j], reflect=j > 0 and not news[j - 1] and said[j] != said[j - 1])
    paid.append(float(pay.get(tag, 0.)) * bool(earned[tag]) if tag else 0.)
  return {'meta': paid}


meta_reasoning.grain = 'episode'
