"""Checklist rewards on the probe task: two questions about a turn instead of a reward that can be checked. arXiv:2602.12268 (CM2).

A script is the judge (it looks things up in its prompt), dict(name='http', url=..., model=...) is a real one; data sets bring a
checklist with each task.
"""

from configs import probe

ITEMS = (dict(question='Does it repeat the number it was shown?', turn=0, weight=2.), dict(question='Does it leave the plan alone?'))
RULES = ((r'before:\no(\d)\n\nLast turn:\n[^\n]*<action>\1</action>\n\nQuestion: Does it repeat', 'Yes'),
         (r'Last turn:\n[^\n]*<switch>0</switch>[^\n]*\n\nQuestion: Does it leave', 'Yes'))


def get_config():
  c = probe.get_config()
  c.name = 'checklist'
  c.rewards = (dict(name='checklist', items=ITEMS, into='checklist', judge=dict(name='scripted', rules=RULES, otherwise='No')),)
  c.tracks.main.estimator = (dict(name='cm2', channel='checklist', turn='turn'),)
  return c
