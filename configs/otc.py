"""OTC-GRPO on the quickstart's task: of the right episodes, those with the fewest looks at the schema are worth most. arXiv:2504.14870.

Exploring is the tool call. alpha and c are a port's.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'otc'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='otc', tool='schema', mode='grpo', alpha=1., c=1.),),
                     'tracks.main.estimator': (dict(name='grpo', channel='otc'),),
                     'tracks.main.selector': (dict(name='informative', channel='otc'),)})
  c.smoke = (('phases[1].tracks.main.selector', ()),)
  return c
