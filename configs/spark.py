"""SPARK on a probe task: an episode is paid a judge's verdict, reached step by step. arXiv:2512.03244.

The judge below follows rules, so that this runs anywhere: the first of the eight actions must repeat the cue. The paper's is
a trained model of 14 billion parameters; give `judge=dict(name='http', url=..., model=...)`. An episode of another length is
out of form.
"""

from configs import probe

LATER = ''.join(f'Step {j}: right\n' for j in range(2, 9))
RULES = {r'Task:\no(\d)\n.*Step 1: \S*<action>\1</action>': f'Step 1: right\n{LATER}Verdict: right'}


def get_config():
  c = probe.get_config()
  c.name = 'spark'
  judge = dict(name='scripted', rules=tuple(RULES.items()), otherwise=f'Step 1: wrong\n{LATER}Verdict: wrong')
  c.rewards = (dict(name='spark', judge=judge, mode='process', least=8, most=8),)
  c.tracks.main.estimator = (dict(name='grpo', channel='spark'),)
  return c
