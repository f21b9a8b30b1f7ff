"""Rewards for tagged meta-reasoning on a probe task: a plan is paid by success, exploring by news, reflecting by a change.

Here an action's fields stand in for the tags of reasoning, so only plans are paid: `<plan>` is the tag that all of them have.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'meta_reasoning'
  c.rewards = ('meta_reasoning',)
  c.tracks.main.estimator = (dict(name='rlvmr', meta='meta', weight=.5, std=True),)
  return c
