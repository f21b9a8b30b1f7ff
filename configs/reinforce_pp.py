"""REINFORCE++ on the quickstart's task: returns whitened over all tokens of the batch. arXiv:2501.03262.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'reinforce_pp'
  c.tracks.main.estimator = ('reinforce_pp',)
  c.tracks.main.selector = ()
  return c
