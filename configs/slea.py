"""The credit of SLEA-RL on the quickstart's task: GiGPO among observations that resemble each other by 0.85. arXiv:2603.18079.

Without its library of experiences, which is a matter of the context. Released: gamma .95, weight 1 (search .9 and .5), no
division by the deviation.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'slea'
  c.labels = dict(state=dict(name='similar', of='obs', threshold=.85))
  c.tracks.main.estimator = (dict(name='gigpo', gamma=.95, weight=1., std=False),)
  return c
