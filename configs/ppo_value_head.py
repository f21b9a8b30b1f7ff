"""PPO on the quickstart's task with a value head on the policy's trunk: one model, one learner, two losses. arXiv:1707.06347."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'ppo_value_head'
  warm, rl = c.phases
  c.phases = (warm, {
      **rl, 'transforms': (dict(name='score', model='policy', head='value'),),
      'tracks': dict(main=dict(estimator=(dict(name='gae', gamma=1., lam=.95),), selector=(), average='token_mean',
                               loss=(dict(name='ppo_clip', low=.2, high=.2), dict(name='value', head='value', coef=.1))))})
  return c
