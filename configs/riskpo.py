"""RiskPO on the quickstart's task: bundles of questions, paid by the low end of their scores' distribution. arXiv:2510.00911.

The paper's numbers: bundles of 5, levels 0.2 and 0.8 (0.9 on easy data), 10 rollouts of 512 prompts; here bundles of 4 divide the 16 prompts.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'riskpo'
  c.tracks.main.estimator = (dict(name='riskpo', bundle=4, low=.2, high=.8, weight=1.5, credit='sum_mean'),)
  c.tracks.main.selector = ()
  return c
