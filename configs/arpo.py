"""ARPO's advantages on the quickstart's task. arXiv:2507.19849.

They differ from GRPO's where rollouts share steps, which takes an explorer that forks where the entropy rises behind a tool call; these
rollouts share nothing. The paper: 16 rollouts a prompt, 8 of them from forks.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'arpo'
  c.tracks.main.estimator = ('arpo',)
  return c
