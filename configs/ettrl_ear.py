"""EAR of ETTRL on the quickstart's task without answers: votes, and more weight on rollouts with less entropy. arXiv:2508.11356.

The paper's other half, forks at tokens of high entropy (ETMR), is an explorer's affair.
"""

from configs import majority


def get_config():
  c = majority.get_config()
  c.name = 'ettrl_ear'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'tracks.main.estimator': (dict(name='grpo', channel='vote'), dict(name='ettrl_ear', mode='residual'))})
  return c
