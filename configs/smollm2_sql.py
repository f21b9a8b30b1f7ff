"""A pretrained model on the quickstart's databases: SmolLM2-135M learns from noisy experts what an episode looks like, then GRPO.

`python -m rlx.fetch smollm2`, then `python -m rlx.train --config configs/smollm2_sql.py`. The last 8 of 30 layers are trained. With
`--config.env.path=/data/spider` the same command runs on Spider (dev is then `databases`, questions kept back are `questions`).

The text is plain, without the chat template: the experts' episodes then have 70 tokens in the mean and 133 at most, with the template
122 and 208, and the warm start teaches the form of an episode either way. On Spider 186 in the mean, 401 at the 95th and 560 at the
99th percentile without an instruction, so slots hold 512; a longer episode is cut off there. A slot costs what it has read, not what
it could hold, and rows are packed, so the short episodes of the quickstart do not pay for it in time (the cache is 1.5 GB).
"""

from configs import base


def get_config():
  c = base.get_config()
  c.name = 'smollm2_sql'
  c.env = dict(name='sql', instruction='')
  c.tokenizer = dict(name='pretrained', path='smollm2', template=None)
  c.models = dict(policy=dict(name='smollm2', freeze=22))
  c.sampler.update(slots=64, width=512, turn=96, segment=8, chunk=16, lanes=2, buckets=(16, 32), stop=('</explore>', '</sql>', '</answer>'))
  c.on_policy_prompts = 8
  c.explorer = dict(name='flat', width=8)
  c.buckets = (dict(rows=40, width=256, nodes=512, prompts=16, actions=208), dict(rows=64, width=512, nodes=640, prompts=16))
  c.minibatch = 8
  c.microbatch = 4
  c.tracks = dict(main=dict(estimator=(dict(name='grpo', std=False),), selector=('informative',), average='token_mean',
                            loss=(dict(name='ppo_clip', low=.2, high=.28),), coef=1.))
  c.tx = dict(name='adamw', learning_rate=1e-4, b2=.98)
  imitation = dict(main=dict(estimator=('ones',), selector=(), average='token_mean', loss=('sft',), coef=1.))
  c.phases = (
      dict(name='warm', steps=140, source=dict(name='expert', count=4000), tracks=imitation, on_policy_prompts=16, minibatch=6,
           microbatch=2, buckets=(dict(rows=6, width=256, nodes=128, prompts=32, actions=160),
                                  dict(rows=16, width=512, nodes=256, prompts=32)), **{'eval.every': 0},
           tx=dict(name='adamw', learning_rate=dict(schedule='warmup_cosine', peak=3e-4, warmup=10, steps=140, end=3e-5), b2=.98)),
      dict(name='rl', steps=25, source='rollout', **{'checkpoint.every': 5}))
  c.eval = dict(splits=dict(train='train', questions='held_out_questions', databases='held_out_databases'), every=25, temperatures=(1.,),
                prompts=200, phases=('warm', 'rl'))
  c.summary = (('warm_start', 'eval/train/1/accuracy@warm'), ('train', 'eval/train/1/accuracy'),
               ('held_out_questions', 'eval/questions/1/accuracy'), ('held_out_databases', 'eval/databases/1/accuracy'))
  c.smoke = (('models.policy', dict(name='transformer', layers=2, dim=32, heads=2, ff=64)), ('tokenizer', dict(name='bpe', size=320)),
             ('sampler.slots', 4), ('sampler.buckets', ()), ('sampler.turn', 24), ('on_policy_prompts', 1), ('explorer.width', 4),
             ('phases[0].on_policy_prompts', 4), ('buckets', (dict(rows=4, width=512, nodes=64, prompts=16),)), ('minibatch', 4), ('microbatch', 2),
             ('phases[0].minibatch', 4), ('phases[0].buckets', (dict(rows=4, width=512, nodes=64, prompts=16),)), ('eval.prompts', 4),
             ('tracks.main.selector', ()))
  return c
