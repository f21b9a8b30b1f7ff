"""SEED-GRPO on the quickstart's task: less is learned where the rollouts disagree. arXiv:2505.12346.

Two episodes mean the same if what they saw before their last step, the result of their last query, reads the same. The paper's shape and
alpha were not seen; it clusters final answers of mathematics.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'seed_grpo'
  c.tracks.main.estimator = (dict(name='grpo', std=False), dict(name='seed_grpo', answer='state', shape='linear', alpha=.5))
  return c
