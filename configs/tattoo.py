"""TaTToo on the quickstart's task: verdicts on each step, grounded in queries on the task's tables. arXiv:2510.06217.

The judge below follows rules, so that this runs anywhere: it counts the tables and finds exploring right. Give
`judge=dict(name='http', url=..., model=...)` a model; the paper trains one of 8 billion parameters and uses it to choose
among answers.
"""

from configs import quickstart

RULES = {'Does that step rest': '<sql> SELECT 1 </sql>', r'step to judge:\n\s*<explore>': 'Verdict: right'}


def get_config():
  c = quickstart.get_config()
  c.name = 'tattoo'
  warm, rl = c.phases
  judge = dict(name='scripted', rules=tuple(RULES.items()), otherwise='Verdict: wrong')
  c.phases = (warm, {**rl, 'rewards': (dict(name='tattoo', judge=judge),),
                     'tracks.main.estimator': (dict(name='duca', session='task', turn='tattoo'),),
                     'tracks.main.selector': ()})
  return c
