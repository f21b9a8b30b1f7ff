"""PAV on the quickstart's task: the outcome plus the progress of each step under the best of four tries. arXiv:2410.08146.

The prover's chance is the policy's probability of the gold query, forced below each step, the geometric mean over its
tokens. The paper samples rollouts of another model and trains a verifier on them; K = 4 and alpha = 1 are ours.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'pav'
  c.sampler.width = 128      # room for a probe behind a long path
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'probes': (dict(name='prover', key='sql', before='<sql> ', per='token'),),
                     'tracks.main.estimator': (dict(name='pav', alpha=1., best_of=4),), 'tracks.main.selector': ()})
  return c
