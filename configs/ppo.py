"""PPO on the quickstart's task with a critic of its own: a second model, trained by a second learner before the policy.

The critic's values are written by a `score` transform, read by `gae` (lambda 0.95), and fitted to its targets. arXiv:1707.06347.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'ppo'
  c.models.critic = dict(name='transformer', layers=2, dim=64, heads=4, ff=192, activation='relu2', rope_base=1000., embed_scale=True)
  gae = dict(name='gae', gamma=1., lam=.95)
  warm, rl = c.phases
  c.phases = (warm, {
      **rl, 'transforms': (dict(name='score', model='critic', head='value'),),
      'tracks': dict(main=dict(estimator=(gae,), selector=(), average='token_mean', loss=(dict(name='ppo_clip', low=.2, high=.2),))),
      'learners': dict(critic=dict(
          model='critic', when='before', minibatch=24, tx=dict(name='adamw', learning_rate=1e-3),
          tracks=dict(value=dict(estimator=(gae,), average='token_mean', loss=(dict(name='value', head='value'),)))))})
  return c
