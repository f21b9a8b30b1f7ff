"""GPG on the quickstart's task: centred returns scaled by batch over non-zero episodes, one update a step. arXiv:2504.02546.

Its loss -A log pi has no ratio: all rows of a step are one minibatch, the ratio of `ppo_clip` is 1 and its gradient the same.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'gpg'
  c.tracks.main.estimator = (dict(name='gpg', count='scores'),)
  c.tracks.main.selector = ()
  c.minibatch = 80
  c.smoke = (*c.smoke, ('minibatch', 24))      # the program that is compiled for others too
  c.tx.learning_rate.steps = 80      # updates
  return c
