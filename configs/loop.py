"""LOOP on the quickstart's task: leave-one-out advantages, PPO with the ratio in [1 / 1.1, 1.1], no critic. arXiv:2502.01600.

As released: clip 0.1, two epochs, the mean over an episode's tokens and then over episodes, rollouts with |A| < 0.01 left out;
6 rollouts of each of 40 scenarios, 32 in a minibatch (here 8 of 16 prompts, and 16 rows, which hold about 32).
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'loop'
  c.tracks = dict(main=dict(estimator=('loop',), selector=(dict(name='above', least=.01),), average='seq_mean',
                            loss=(dict(name='ppo_clip', low=1 - 1 / 1.1, high=.1),), coef=1.))
  c.minibatch = 16
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'epochs': 2})
  return c
