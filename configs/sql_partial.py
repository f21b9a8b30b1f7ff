"""Reasoning-SQL's partial rewards on the quickstart's task: near misses are paid too. arXiv:2503.23157.

GRPO and the list of rewards are the paper's, the weights 3, 2, 1, 1, 1, 1 a port's. No judge here, so a wrong query earns nothing for its
meaning; one is asked with judge=dict(name='http', url=..., model=...).
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'sql_partial'
  c.rewards = (dict(name='sql_partial'),)
  c.tracks.main.estimator = (dict(name='grpo', channel='partial'),)
  return c
