"""Lite-PPO on the quickstart's task: the prompt's mean, the batch's deviation, a plain clip, tokens averaged alike. arXiv:2508.08221.

The paper: 128 prompts of 8 rollouts, learning rate 1e-6, no KL term and no filter.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'lite_ppo'
  c.tracks = dict(main=dict(estimator=('lite_ppo',), selector=(), average='token_mean', loss=(dict(name='ppo_clip', low=.2, high=.2),),
                            coef=1.))
  return c
