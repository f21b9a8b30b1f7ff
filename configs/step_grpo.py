"""Step-GRPO (R1-Router) on a probe task: each step's own reward against the steps that answered the same observation.

The paper's examples are single steps with a gold answer (reward `routed`); here the probe task's 'turn' judges every step.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'step_grpo'
  c.tracks.main.estimator = (dict(name='step_grpo', channel='turn', same='state'),)
  return c
