"""EMPO on the quickstart's task: a query is paid the share of its prompt's rollouts that try the same one last. arXiv:2504.05812.

The paper: 7 rollouts, learning rate 1e-6, no KL term, GRPO's normalisation; the clusters of other tasks need a verifier (`same`).
"""

from configs import majority


def get_config():
  c = majority.get_config()
  c.name = 'empo'
  c.rewards = (dict(name='empo', answer='sql', of='episode', into='vote'),)
  return c
