"""The smallest world: a probe task as text, a policy of one narrow layer. Ten seconds a phase; what a paper's method is tried on first.

`--config.env.task=` delayed_reward | revisit | plan_execute | fork | noisy_long (24 turns, which need sampler.width and buckets[0].width of 400). Has per-step rewards 'turn' and 'prm', the roles 'switch',
'plan' and 'action', and the answer of a prompt, which the quickstart has not.
"""

from configs import base

FIELDS = ('switch', 'plan', 'action')


def get_config():
  c = base.get_config()
  c.name = 'probe'
  c.env = dict(name='probe_tasks', task='delayed_reward')
  c.tokenizer = dict(name='bpe', size=64, alphabet='seen', special=tuple(f'<{end}{tag}>' for tag in FIELDS for end in ('', '/')))
  c.models = dict(policy=dict(name='transformer', layers=1, dim=32, heads=2, ff=64, rope_base=1000.))
  c.sampler.update(slots=32, width=176, turn=12, chunk=8, stop=('</action>',))
  c.segment = dict(name='tags', names=FIELDS)
  c.on_policy_prompts = 4
  c.explorer = dict(name='flat', width=8)
  c.buckets = (dict(rows=32, width=176, nodes=512, prompts=16),)
  c.minibatch = 16
  c.tx = dict(name='adamw', learning_rate=1e-3, b2=.98)
  imitation = dict(main=dict(estimator=('ones',), selector=(), average='token_mean', loss=('sft',), coef=1.))
  c.phases = (
      dict(name='warm', steps=60, source=dict(name='expert', count=400), tracks=imitation, on_policy_prompts=16,
           tx=dict(name='adamw', learning_rate=3e-3, b2=.98)),
      dict(name='rl', steps=40, source='rollout'))
  c.eval = dict(splits=dict(test='test'), every=0, temperatures=(1.,), prompts=32, phases=('warm', 'rl'))
  return c
