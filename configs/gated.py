"""G-RA on a probe task: a judge's verdicts on the turns count only where more than half of the actions were right. arXiv:2508.10548.

The paper's thresholds and weights were not seen; its gate on software tasks is a patch that is handed in.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'gated'
  c.env.task = 'plan_execute'
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='gated', outcome='task', parts=('turn',), threshold=.5),),
                     'tracks.main.estimator': (dict(name='grpo', channel='gated'),)})
  return c
