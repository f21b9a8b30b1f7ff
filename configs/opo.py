"""OPO on the quickstart's task: the baseline is the mean return weighted by length, one update a step. arXiv:2505.23585.

The paper trains exactly on-policy, so all rows of a step are one minibatch and the ratio of `ppo_clip` is 1.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'opo'
  c.tracks.main.estimator = ('opo',)
  c.tracks.main.selector = ()
  c.minibatch = 80
  c.smoke = (*c.smoke, ('minibatch', 24))      # the program that is compiled for others too
  c.tx.learning_rate.steps = 80      # updates
  return c
