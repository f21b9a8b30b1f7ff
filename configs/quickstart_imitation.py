"""A control of the quickstart: more imitation of fresh demonstrations for the time RL takes."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'quickstart_imitation'
  warm, _ = c.phases
  c.phases = (warm, {**warm, 'name': 'more', 'steps': 1700, 'source': dict(name='expert', count=16000)})
  c.eval.phases = ('warm', 'more')
  return c
