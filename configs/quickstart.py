"""Multi-turn text-to-SQL over unknown schemas, from scratch, on a laptop: `python -m rlx.train --config configs/quickstart.py`.

128 small SQLite databases whose naming is hidden, so that exploring pays; a policy of 320k parameters imitates noisy scripted
experts (right in 42 % of their episodes), then GRPO without the division by the deviation learns to explore always and to be
right afterwards. Execution accuracy of sampled answers on held-out questions rises from about 0.35 to about 0.9.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.name = 'quickstart'
  c.env = dict(name='sql', world='hidden_names')
  c.tokenizer = dict(name='bpe', size=448, alphabet='seen', special=tuple(f'<{end}{tag}>' for tag in ('explore', 'sql', 'answer', 'obs')
                                                                              for end in ('', '/')))
  c.models = dict(policy=dict(name='transformer', layers=3, dim=96, heads=4, ff=288, activation='relu2', rope_base=1000.,
                              embed_scale=True))
  c.sampler.update(slots=128, width=112, turn=22, segment=11, chunk=20, buckets=(64,), lanes=2, stop=('</explore>', '</sql>', '</answer>'))
  c.on_policy_prompts = 16
  c.explorer = dict(name='flat', width=8)
  c.buckets = (dict(rows=80, width=128, nodes=1024, prompts=32, actions=64),)
  c.minibatch = 24
  c.tracks = dict(main=dict(estimator=(dict(name='grpo', std=False),), selector=('informative',), average='token_mean',
                            loss=(dict(name='ppo_clip', low=.2, high=.28),), coef=1.))
  c.tx = dict(name='adamw', learning_rate=dict(schedule='linear', start=5e-4, end=5e-5, steps=136), b2=.98)
  imitation = dict(main=dict(estimator=('ones',), selector=(), average='token_mean', loss=('sft',), coef=1.))
  c.phases = (
      dict(name='warm', steps=900, source=dict(name='expert', count=4000), tracks=imitation, on_policy_prompts=16, minibatch=8,
           buckets=(dict(rows=8, width=128, nodes=128, prompts=32, actions=64),), **{'eval.every': 0},
           tx=dict(name='adamw', learning_rate=dict(schedule='warmup_cosine', peak=2e-3, warmup=30, steps=900, end=2e-4), b2=.98)),
      dict(name='rl', steps=80, source='rollout', **{'checkpoint.every': 20}))
  c.eval = dict(splits=dict(questions='held_out_questions', databases='held_out_databases'), every=40, temperatures=(1.,),
                prompts=256, phases=('warm', 'rl'))
  c.summary = (('warm_start', 'eval/questions/1/accuracy@warm'), ('held_out_questions', 'eval/questions/1/accuracy'),
               ('held_out_databases', 'eval/databases/1/accuracy'), ('explored', 'eval/questions/1/explored'))
  c.smoke = (('tracks.main.selector', ()),)   # two steps in, every prompt's episodes are equally wrong
  return c
