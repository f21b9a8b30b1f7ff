"""DAPO's soft overlong punishment on the quickstart's task: the last 24 of 64 tokens of an episode cost up to a right answer.

DAPO (arXiv:2503.14476): 20,480 tokens, the last 4,096 of them punished.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'length_penalty'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='length_penalty', limit=64., buffer=24., factor=1., channel='task'),),
                     'tracks.main.estimator': (dict(name='grpo', channel='length'),)})
  return c
