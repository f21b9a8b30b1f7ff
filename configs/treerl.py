"""TreeRL's step rewards on a probe task whose rollouts fork: V(n) - V(parent) + V(n) of leave-one-out leaf rewards.

The paper grows its trees at tokens of high entropy; here every rollout forks after three steps.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'treerl'
  c.env.task = 'fork'
  c.explorer = dict(name='forked', width=4, steps=3, branches=2)
  c.tracks.main.estimator = (dict(name='treerl', centre='token', weight='sqrt'),)
  return c
