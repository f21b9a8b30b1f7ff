"""RLVMR's advantage on a probe task: an episode in its prompt plus each step among the steps with its tag. arXiv:2507.22844.

Here the tag is the `plan` of an action, and 'turn' stands in for the rewards that the reward `rlvmr` reads off meta-reasoning tags.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'rlvmr'
  c.tracks.main.estimator = (dict(name='rlvmr', meta='turn', weight=.5, std=True),)
  return c
