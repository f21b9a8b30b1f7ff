"""SPAE on the quickstart's task: the episode's advantage damped where the answer is known, plus each step's gain in potential. arXiv:2601.03823.

The paper's numbers: alpha and xi 0.5, 5 samples of at most 10 tokens at each step (of a thought), on top of DAPO with unequal clip bounds.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'spae'
  c.sampler.width = 128      # room for a probe behind a long path
  c.tracks.main.estimator = (dict(name='spae', alpha=.5, xi=.5, saturation=.9),)
  c.tracks.main.selector = ()
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'probes': (dict(name='spae', key='sql', before='<sql> ', samples=5, limit=10),), 'transforms': ('spae_potential',)})
  c.smoke = (*c.smoke, ('phases[1].probes[0].samples', 2), ('phases[1].probes[0].limit', 4), ('on_policy_prompts', 2))
  return c
