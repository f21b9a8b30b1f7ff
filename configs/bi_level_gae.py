"""Bi-level GAE on the quickstart's task: PPO with a critic, credit turn by turn and then token by token. arXiv:2510.16907 (VAGEN).

The critic is that of ppo.py; lambda 0.95 on both levels (ours), no discount.
"""

from configs import ppo


def get_config():
  c = ppo.get_config()
  c.name = 'bi_level_gae'
  estimator = (dict(name='bi_level_gae', gamma=1., lam=.95, gamma_turn=1.),)
  for learner in (c.phases[1], c.phases[1]['learners']['critic']):
    for track in learner['tracks'].values():
      track['estimator'] = estimator
  return c
