"""ReSeek on the probe task: the agent says of each observation whether it holds the answer, and is paid for that. arXiv:2510.00568.

The probe's switch stands for the judgement (1 yes, 0 no), each step's observation for what a search brought, equality for the
reranker.
"""

from configs import probe


def same(observation, answer):
  """1 if the observation shows the answer."""
  return float(observation == f'o{answer}')


def get_config():
  c = probe.get_config()
  c.name = 'reseek'
  c.rewards = (dict(name='reseek', tag='switch', words=('1', '0'), search=None, similarity=same),)
  c.tracks.main.estimator = (dict(name='grpo', channel='judge'),)
  return c
