"""SPA on the quickstart's task: PPO on step rewards that a progress estimator takes the return apart into. arXiv:2505.20732.

A third model learns contributions that add up to the return; a step is paid its contribution and 0.5 if its action was well formed. The paper
fits the estimator once, on data explored before (learning rate 3e-6, an epoch); here it keeps learning, from the second step on it is of use.
"""

from configs import ppo


def get_config():
  c = ppo.get_config()
  c.name = 'spa'
  c.models.progress = dict(c.models.critic)
  c.rewards = (dict(name='format', pattern='<(explore|sql|answer)>.*</\\1>', per='step', right=1.),)
  warm, rl = c.phases
  gae = dict(name='gae', gamma=1., lam=.95, channel='spa')
  score = lambda model, head: dict(name='score', model=model, head=head)
  learner = lambda model, estimator, average, loss: dict(
      model=model, when='before', minibatch=24, tx=dict(name='adamw', learning_rate=1e-3),
      tracks=dict(value=dict(estimator=(estimator,), average=average, loss=(loss,))))
  c.phases = (warm, {
      **rl, 'transforms': (score('critic', 'value'), score('progress', 'progress'), dict(name='spa', alpha=1., beta=.5)),
      'tracks': dict(main=dict(estimator=(gae,), selector=(), average='token_mean', loss=(dict(name='ppo_clip'),))),
      'learners': dict(critic=learner('critic', gae, 'token_mean', dict(name='value', head='value')),
                       progress=learner('progress', 'ones', 'seq_mean', dict(name='progress', head='progress')))})
  return c
