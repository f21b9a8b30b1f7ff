"""ProRAG's dual-granularity advantage on a probe task: the outcome in its prompt plus 0.3 times a step score over the prompt's tokens.

The paper's step scores come from a process reward model trained on pairs of a tree search; the probe task's 'prm' stands in for it.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'prorag'
  c.tracks.main.estimator = (dict(name='prorag', process='prm', beta=.3),)
  return c
