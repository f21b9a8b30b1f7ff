"""ReMax on the quickstart's task: sampled episodes against a greedy one, which is not trained. arXiv:2310.10505.

Seven sampled rollouts and a greedy one a prompt, so that a step costs what the quickstart's does (the paper samples one). Its
gradient is REINFORCE's: one update a step, at which the ratio of `ppo_clip` is 1.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'remax'
  c.explorer = dict(name='flat_and_greedy', width=7)
  c.labels = dict(drawn='drawn')
  c.tracks.main.estimator = (dict(name='remax', drawn='drawn'),)
  c.tracks.main.selector = (dict(name='where', label='drawn'),)
  c.minibatch = 80
  c.smoke = (*c.smoke, ('minibatch', 24))      # the program that is compiled for others too
  c.tx.learning_rate.steps = 80      # updates
  c.smoke = ()
  return c
