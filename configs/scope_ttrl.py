"""SCOPE (test-time) on the quickstart's task: votes weighed by confidence, in subgroups with labels of their own. arXiv:2512.15146.

The paper: 64 rollouts, each label voted by 32 of them, lambda 0.7, temperature 0.6, learning rate 5e-7, 8 prompts; here 8, voted by 4.
"""

from configs import majority


def get_config():
  c = majority.get_config()
  c.name = 'scope_ttrl'
  c.rewards = (dict(name='scope_ttrl', answer='sql', of='episode', votes=4, weight=.7, into='vote'),)
  return c
