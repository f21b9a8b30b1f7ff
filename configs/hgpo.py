"""HGPO on the quickstart's task: a step against all steps with the same last one, two, three observations. HGPO, ICLR 2026."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'hgpo'
  c.tracks.main.estimator = (dict(name='hgpo', gamma=.95, history=2, alpha=1., std=False),)
  return c
