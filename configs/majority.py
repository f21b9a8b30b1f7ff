"""TTRL on the quickstart's task: no right answer is used, the query that most rollouts of a prompt try last is taken for it. arXiv:2504.16084.

The environment goes on paying 'task', which nothing trains on: it shows whether the vote helps. The paper: 64 rollouts vote, the first 32 are
trained, learning rate 5e-7, a KL term of 0.001, 8 prompts.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'majority'
  c.rewards = (dict(name='majority', answer='sql', of='episode', train=6, missing='abstains', into='vote'),)
  c.tracks.main.estimator = (dict(name='grpo', channel='vote'),)
  c.tracks.main.selector = (dict(name='judged', channel='vote'), dict(name='informative', channel='vote'))
  warm, rl = c.phases
  c.phases = ({**warm, 'rewards': ()}, rl)
  return c
