"""Text-to-SQL over unknown schemas in four acts (explore, propose, generate, confirm), two tracks. arXiv:2603.16448 (TRUST-SQL).

Realistic databases of several domains with foreign keys, NULLs and dates; a schema track that trains what leads up to the proposal
and an answer track that trains everything. The policy is a small one, from scratch.
"""

from configs import base

ACTS = ('explore_schema', 'propose_schema', 'generate_sql', 'confirm_answer')


def get_config():
  c = base.get_config()
  c.name = 'sql_small'
  c.env = dict(name='sql', world='four_acts')
  c.tokenizer = dict(name='bpe', size=1024, special=tuple(f'<{end}{tag}>' for tag in (*ACTS, 'obs') for end in ('', '/')))
  c.models = dict(policy=dict(name='transformer', layers=4, dim=128, heads=4, ff=512))
  c.sampler.update(slots=64, width=640, turn=96, chunk=64, buckets=(16,), stop=tuple(f'</{act}>' for act in ACTS))
  c.on_policy_prompts = 8
  c.explorer = dict(name='flat', width=8)
  c.buckets = (dict(rows=8, width=640, nodes=256, prompts=16, actions=320), dict(rows=64, width=640, nodes=640, prompts=16))
  c.minibatch = 8
  group = lambda channel: (dict(name='grpo', channel=channel, ddof=0, clip=10.),)
  c.tracks = dict(
      answer=dict(estimator=group('task'), average='seq_mean', loss=(dict(name='ppo_clip'),)),
      schema=dict(estimator=group('schema'), selector=(dict(name='where', label='explore'),), average='seq_mean',
                  loss=(dict(name='ppo_clip'),), coef=.25))
  c.tx = dict(name='adamw', learning_rate=dict(schedule='linear', start=3e-4, end=3e-5, steps=400), b2=.98)
  imitation = dict(main=dict(estimator=('ones',), selector=(), average='token_mean', loss=('sft',), coef=1.))
  c.phases = (
      dict(name='warm', steps=1500, source=dict(name='expert', count=8000), tracks=imitation, on_policy_prompts=16, minibatch=8,
           tx=dict(name='adamw', learning_rate=dict(schedule='warmup_cosine', peak=1e-3, warmup=50, steps=1500, end=1e-4), b2=.98)),
      dict(name='rl', steps=200, source='rollout'))
  c.eval = dict(splits=dict(questions='held_out_questions', databases='held_out_databases'), every=50, temperatures=(1.,), prompts=128,
                phases=('warm', 'rl'))
  c.summary = (('warm_start', 'eval/questions/1/accuracy@warm'), ('held_out_questions', 'eval/questions/1/accuracy'),
               ('held_out_databases', 'eval/databases/1/accuracy'))
  c.smoke = (('sampler.slots', 4), ('sampler.buckets', ()), ('on_policy_prompts', 1), ('explorer.width', 4), ('phases[0].on_policy_prompts', 4),
             ('buckets', (dict(rows=8, width=640, nodes=64, prompts=16),)), ('eval.prompts', 4), ('models.policy.layers', 1))
  return c
