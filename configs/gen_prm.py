"""A generative process reward model on a probe task: verdicts of a judge on each step beside the outcome.

The judge below follows rules, so that this runs anywhere: the first action must repeat the cue, later ones are as good as
any. Give `judge=dict(name='http', url=..., model=...)` a model that samples.
"""

from configs import probe

RULES = {r'Task:\no(\d)\n.*\(none\).*<action>\1</action>': 'Verdict: right', r'\(none\)': 'Verdict: wrong'}


def get_config():
  c = probe.get_config()
  c.name = 'gen_prm'
  judge = dict(name='scripted', rules=tuple(RULES.items()), otherwise='Verdict: right')
  c.rewards = (dict(name='gen_prm', judge=judge, samples=1),)
  c.tracks.main.estimator = (dict(name='duca', session='task', turn='gen_prm'),)
  return c
