"""SLATE on a probe task: k candidates for the next step behind one prefix, compared with one another; one goes on. arXiv:2602.23440.

The probe task's 'turn' stands in for the judge's scores. The paper's loss has one ratio a candidate; this one a ratio a token.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'slate'
  c.explorer = dict(name='slate', width=5, eta=.7, channel='turn', budget=4)
  c.tracks.main.estimator = (dict(name='slate', channel='turn'),)
  return c
