"""BNPO on the quickstart's task: centred returns weighted by a Beta density over the prompts' success rates. arXiv:2506.02864.

As released: 16 rollouts a prompt, clip 0.2 and 0.28, dual clip 10, token sums averaged over episodes, on-policy, no KL.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'bnpo'
  c.on_policy_prompts = 8
  c.explorer = dict(name='flat', width=16)
  c.tracks = dict(main=dict(estimator=('bnpo',), selector=(), average=dict(name='constant', length=1.),
                            loss=(dict(name='ppo_clip', low=.2, high=.28, dual=10.),), coef=1.))
  c.minibatch = 80
  c.smoke = (*c.smoke, ('minibatch', 24))      # the program that is compiled for others too
  c.tx.learning_rate.steps = 80      # updates
  return c
