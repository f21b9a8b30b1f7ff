"""ASPO on the quickstart's task: right episodes that explore earlier get more. arXiv:2508.19201.

Exploring the schema stands for calling code. The paper: DAPO on 96 problems of 8 rollouts, delta -2 with a bound of 0.7.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'aspo'
  c.tracks.main.estimator = (dict(name='grpo'), dict(name='aspo', code='schema', delta=-2., bound=.7))
  return c
