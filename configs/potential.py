"""Potential shaping on the quickstart's task: how likely the gold query has become is each state's baseline (Ng et al., ICML 1999)."""

from configs import igpo


def get_config():
  c = igpo.get_config()
  c.name = 'potential'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='potential', value='p_answer', at='after', gamma=1.),),
                     'tracks.main.estimator': (dict(name='reinforce_pp', channel='shaped', gamma=1.),)})
  return c
