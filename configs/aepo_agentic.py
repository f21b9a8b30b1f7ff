"""Agentic Entropy-Balanced Policy Optimization on the quickstart's task: its entropy-aware advantages, on GRPO's.

Released: coefficient 0.2, clip 0.2, dual clip 3, 16 rollouts a prompt. Of the method's other two parts, the clip whose
upper bound keeps its gradient is a matter of the loss and the branching at uncertain tool calls of the explorer (off in
the released scripts).
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'aepo_agentic'
  c.tracks.main.estimator = ('grpo', dict(name='aepo_agentic', coef=.2))
  c.tracks.main.selector = ()
  c.tracks.main.loss = (dict(name='ppo_clip', low=.2, high=.2, dual=3.),)
  return c
