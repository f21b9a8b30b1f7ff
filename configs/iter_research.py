"""IterResearch's credit on the quickstart's task: each step is a sample, earlier ones are discounted, their number is a multiple of 8.

arXiv:2511.07327. Its discount was not seen; its loss is GSPO's, here it is PPO's; its rounds start from a report that the model rewrites,
here from everything that was said.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'iter_research'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'rows': 'steps', 'on_policy_prompts': 8, 'minibatch': 80,
                     'buckets': (dict(rows=320, width=128, nodes=512, prompts=16, actions=24),),
                     'tracks.main.estimator': (dict(name='step_discount', gamma=.95, pool='prompt', std=True),),
                     'tracks.main.selector': (dict(name='downsample', multiple=8),), 'tracks.main.average': 'seq_mean'})
  return c
