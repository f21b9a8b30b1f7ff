"""RewardFlow on the quickstart's task: a step is worth what it gains on the graph of states. arXiv:2603.18859.

Script: gamma .9. The last observation of an episode is empty here whether it was right or not, so every episode ends in a state
of its own.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'rewardflow'
  c.tracks.main.estimator = (dict(name='rewardflow', gamma=.9, weight=1., std=True, terminal='own'),)
  return c
