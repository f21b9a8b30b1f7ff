"""DynaMO's advantages on the quickstart's task: GRPO, modulated token by token. arXiv:2602.19208.

Paper: 512 prompts of 8 to 24 rollouts (16 on average), token mean, clip 0.2 and 0.28, dual clip 10, learning rate 1e-6.
Its budgets of rollouts are not here: every prompt has the same number.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'dynamo'
  c.tracks.main.estimator = ('grpo', dict(name='dynamo', most=1.2, least=.6, steep=50., at=.99, now=''))      # on-policy
  c.tracks.main.selector = ()
  c.tracks.main.loss = (dict(name='ppo_clip', low=.2, high=.28, dual=10.),)
  return c
