"""OPRL (iStar) on the quickstart's task: implicit step rewards of a model trained on success against failure. arXiv:2509.19199.

The process reward model imitates as the policy does, then learns by trajectory DPO against the behaviour, with the episodes of a prompt in one
minibatch; a step's reward is what it thinks likelier than the behaviour did, as it was before this step's update. The paper: 16 prompts of 8
rollouts, beta 0.05, learning rates 5e-7 and (reward model) 1e-6, gradients clipped at 10.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'oprl'
  c.models.prm = dict(c.models.policy)
  c.tracks.main.estimator = (dict(name='oprl', beta=.05, weight=1., baseline='rloo'),)
  c.tracks.main.selector = ()
  warm, rl = c.phases
  learner = lambda **kw: dict(prm=dict(model='prm', when='before', **kw))
  c.phases = ({**warm, 'learners': learner(tracks=warm['tracks'], tx=warm['tx'], minibatch=8)}, {
      **rl, 'transforms': (dict(name='score', model='prm', into='prm_logp'),),
      'buckets': (dict(rows=160, width=128, nodes=1024, prompts=32, actions=64),),      # a row holds one prompt only
      'learners': learner(unit='group', minibatch=24, tx=dict(name='adamw', learning_rate=1e-4),
                          tracks=dict(main=dict(estimator=('ones',), average='seq_mean', loss=(dict(name='trajectory_dpo', beta=.05),))))})
  return c
