"""Text-to-SQL in one turn with the schema shown, by a pretrained model: Spider's usual setting. arXiv:1809.08887

`python -m rlx.fetch qwen2.5-coder-0.5b`, then, to score it on the first hundred questions of dev as it is:

    python -m rlx.eval --config configs/spider_single.py --config.env.path=/data/spider --split dev --prompts 100 --first --temperature 0

`rlx.train` with the same config and path trains it by GRPO, here with adapters of rank 16. Without a path the quickstart's databases stand in.
"""

from configs import base


def get_config():
  c = base.get_config()
  c.name = 'spider_single'
  c.env = dict(name='sql', protocol='single')
  c.context = dict(name='chat')
  c.models = dict(policy=dict(name='qwen2.5-coder-0.5b', lora=dict(rank=16)))
  c.sampler.update(slots=16, width=1280, turn=160, segment=16, chunk=128, buckets=(4,))
  c.on_policy_prompts = 2
  c.explorer = dict(name='flat', width=8)
  c.buckets = (dict(rows=8, width=1280, nodes=64, prompts=16, actions=640), dict(rows=16, width=1280, nodes=64, prompts=16))
  c.minibatch = 8
  c.microbatch = 1
  c.tracks = dict(main=dict(estimator=(dict(name='grpo', std=False),), selector=('informative',), average='token_mean',
                            loss=(dict(name='ppo_clip', low=.2, high=.28),), coef=1.))
  c.tx = dict(name='adamw', learning_rate=1e-4, b2=.98)
  c.eval = dict(splits=dict(databases='held_out_databases'), every=20, temperatures=(0.,), prompts=100, phases=None)
  c.summary = (('held_out_databases', 'eval/databases/0/accuracy'),)
  c.smoke = (('models.policy', dict(name='transformer', layers=1, dim=32, heads=2, ff=64)), ('tokenizer', dict(name='bpe', size=320)),
             ('context', 'append'), ('sampler.slots', 4), ('sampler.buckets', ()), ('sampler.turn', 12), ('on_policy_prompts', 1),
             ('explorer.width', 4), ('buckets', (dict(rows=4, width=1280, nodes=16, prompts=8),)), ('minibatch', 4), ('eval.prompts', 4),
             ('tracks.main.selector', ()))
  return c
