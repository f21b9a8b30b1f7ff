"""DuCA on a probe task: turns and sessions are normalised each by itself, then added. arXiv:2603.01481.

The probe task's 'turn' is a verdict on each action that is wrong one time in ten; the paper's are rules (fluency,
compliance, identity), its session is paid where a customer was won. Weights 1 and 1 are ours.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'duca'
  c.tracks.main.estimator = (dict(name='duca', session='task', turn='turn', weight=1., weight_session=1.),)
  return c
