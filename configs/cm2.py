"""CM2's advantage on a probe task: a turn's checklist reward against the same turn of the prompt's other rollouts.

The probe task's 'turn' stands in for the weighted checklist (reward `checklist`).
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'cm2'
  c.tracks.main.estimator = (dict(name='cm2', channel='turn', turn='turn'),)
  return c
