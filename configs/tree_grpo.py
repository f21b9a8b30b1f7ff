"""Tree-GRPO on a probe task whose rollouts fork: an episode in its prompt plus the same in its tree (ICLR 2026).

The paper grows several trees a prompt by expanding random steps; here four rollouts fork after three steps.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'tree_grpo'
  c.env.task = 'fork'
  c.explorer = dict(name='forked', width=4, steps=3, branches=2)
  c.tracks.main.estimator = (dict(name='tree_grpo', mode='both'),)
  return c
