"""ConvSearch-R1's rank reward on a probe task: paid is how near an action comes to the cue. arXiv:2505.15776.

One turn an episode, as in the paper. There is no retriever here: four passages are ranked by their distance to the digit
that was said, so that this runs anywhere. The paper pays ranks up to 10 above 1 and up to 100 above 0, wants <think> and
<rewrite>, and takes 16 rollouts at temperature 0.7 and a KL term of 0.001.
"""

from configs import probe


def search(query, depth):
  """The digits 0 to 3, the nearest first."""
  return sorted('0123', key=lambda i: abs(int(i) - int(query)))[:depth] if query in tuple('0123') else []


def get_config():
  c = probe.get_config()
  c.name = 'rank_incentive'
  c.sampler.max_steps = 1
  c.rewards = (dict(name='rank_incentive', search=search, gold='answer', tag='action', pattern=None, near=2, far=4),)
  c.tracks.main.estimator = (dict(name='grpo', channel='rank'),)
  return c
