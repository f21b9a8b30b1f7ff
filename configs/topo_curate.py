"""TopoCurate on the probe task with a fork: tasks that go wrong, or right, in many ways come more often. arXiv:2603.01714.

Equal turns are those with the same observation, action and outcome; the score of a task is that of its last rollouts.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'topo_curate'
  c.env = dict(name='probe_tasks', task='fork', size=32)
  c.curriculum = dict(name='topo_curate', labels=('state', 'action', 'next'))
  return c
