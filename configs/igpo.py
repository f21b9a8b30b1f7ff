"""IGPO on the quickstart's task: a turn is paid by how much likelier it made the gold query. arXiv:2510.14967.

The gold query is forced behind each turn that goes on, and below the question. The paper: 32 prompts of 16 rollouts, 10 turns at most, learning
rate 1e-6, a KL term of 0.001; the answer between tags of its own; the outcome is F1.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'igpo'
  c.sampler.width = 128      # room for a probe behind a long path
  c.tracks.main.estimator = (dict(name='igpo', mode='separate', gamma=1.),)
  c.tracks.main.selector = ()
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'probes': (dict(name='answer', key='sql', before='<sql> '),)})
  return c
