"""GiGPO among observations that are nearly equal, with a penalty on broken actions, on the quickstart's task. arXiv:2505.10978.

As released for search: a step's state is the first observation of its prompt that resembles its own by 0.9; an action that does
not parse costs 0.01, on its own step (0.1 and equal observations elsewhere). Scripts: gamma .95, weight 1, KL 0.001, lr 1e-6.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'gigpo_similar'
  c.labels = dict(state=dict(name='similar', of='obs', threshold=.9))
  c.rewards = (dict(name='format', pattern=r'<(explore|sql|answer)>.*</\1>', per='step', right=0., wrong=-.01),)
  c.tracks.main.estimator = (dict(name='gigpo', gamma=.95, weight=1., std=True, penalty='format'),)
  return c
