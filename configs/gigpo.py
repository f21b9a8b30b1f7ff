"""GiGPO on the quickstart's task: an episode's advantage in its group plus a step's among equal observations. arXiv:2505.10978."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'gigpo'
  c.tracks.main.estimator = (dict(name='gigpo', gamma=.95, weight=1., std=False),)
  return c
