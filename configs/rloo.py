"""RLOO on the quickstart's task: an episode against the mean of the others of its prompt. arXiv:2402.14740."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'rloo'
  c.tracks.main.estimator = ('rloo',)
  return c
