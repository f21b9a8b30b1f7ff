"""Hi-Agent on a probe task: each step is an episode of its own, against the steps taken at the same state. arXiv:2510.14388.

Feedback is the probe task's 'turn', a verdict on each action that is wrong one time in ten, with what the form costs; the
paper's is what a low-level model did with a sub-goal (`low`), on phones. The weights are ours.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'hi_agent'
  c.tracks.main.estimator = (dict(name='hi_agent', channel='turn', form='format', weight=1., weight_form=1.),)
  return c
