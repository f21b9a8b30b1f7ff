"""EMPG on the quickstart's task: GRPO's advantages weighted by how certain the policy was in a step. arXiv:2509.09265.

Paper: on top of GRPO or DAPO, k = k' = 1, zeta 0.1; ALFWorld, WebShop and deep search.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'empg'
  c.tracks.main.estimator = ('grpo', dict(name='empg', k=1., k_future=1., zeta=.1))
  c.tracks.main.selector = ()      # its bonus is paid where a prompt's episodes are equal, too
  return c
