"""REINFORCE++ with a baseline on the quickstart's task: returns against their prompt's mean, whitened over all tokens. arXiv:2501.03262."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'reinforce_pp_baseline'
  c.tracks.main.estimator = (dict(name='reinforce_pp', baseline=True),)
  c.tracks.main.selector = ()
  return c
