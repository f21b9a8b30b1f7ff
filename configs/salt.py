"""SALT on the quickstart's task: the same query in the same state to the same effect has one advantage. arXiv:2510.20022.

The paper's settings were not seen; there it stands on GRPO or RLOO, on WebShop, ALFWorld and AppWorld.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'salt'
  c.tracks.main.estimator = (dict(name='salt', base='grpo', visits='each', mix=1.),)
  return c
