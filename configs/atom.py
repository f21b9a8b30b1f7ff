"""Atom-Searcher on a probe task: thoughts count half at first, the outcome alone after 30 steps of RL. arXiv:2508.12800.

A thought is a step, its score the probe task's noisy 'prm' (the paper: a reasoning reward model on units of a thought).
Steps count over both phases, and imitation has 60. Start, line and end of the schedule are ours.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'atom'
  c.transforms = (dict(name='atom', outcome='task', thought='prm', start=.5, begin=60., until=90.),)
  c.tracks.main.estimator = (dict(name='grpo', channel='atom'),)
  return c
