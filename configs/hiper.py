"""HiPER on a probe task: three advantages a turn, for the tokens that switch, plan and act, each with its own head of a critic. arXiv:2602.16165.

Actions are `<switch>1</switch><plan>2</plan><action>3</action>`; a plan that is taken up begins a segment.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'hiper'
  c.env.task = 'plan_execute'
  c.labels = dict(goal=dict(name='block', tag='plan'))
  heads = ('low', 'high', 'term')
  c.models.critic = dict(name='transformer', layers=1, dim=32, heads=2, ff=64, rope_base=1000.)
  hiper = dict(name='hiper', gamma=1., lam=1., lam_segment=.95)
  warm, rl = c.phases
  c.phases = (warm, {
      **rl,
      'transforms': (dict(name='keep_penalty', total=-.3), *(dict(name='score', model='critic', head=h) for h in heads)),
      'tracks': dict(main=dict(estimator=(hiper,), selector=(), average='token_mean', loss=('ppo_clip',))),
      'learners': dict(critic=dict(
          model='critic', when='before', minibatch=16, tx=dict(name='adamw', learning_rate=1e-3),
          tracks=dict(value=dict(estimator=(hiper,), average='token_mean', loss=tuple(dict(name='value', head=h) for h in heads)))))})
  return c
