"""LTS's usage credit on a probe task: what is kept for later is paid where it was of use, and costs a little. arXiv:2602.05965.

The probe tasks have no memory: taking up a plan stands for admitting an entry, any plan but the first for one that is recalled. The
paper: 5 rollouts of a task, temperature 1.2; its bonus and price were not published.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'lts'
  c.env.task = 'plan_execute'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='lts', admit='switch', recalled='tag', beta=.1, sparse=.01),),
                     'tracks.main.estimator': (dict(name='gigpo', weight=0., population='episodes', penalty='lts'),)})
  return c
