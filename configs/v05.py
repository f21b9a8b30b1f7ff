"""V_0.5 on a probe task: few rollouts, more where they contradict a prior, a baseline between both. arXiv:2603.10848.

Four rollouts a prompt, up to eight. The paper's prior is a trained model of values; here it is the policy's own probability
of the right answer, forced in front of the first step (probe `prover`). The budget is decided before that is known, so it
goes by a prior of 0.5. Group size 4 is the paper's, the cost ours.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'v05'
  c.explorer = dict(name='v05_budget', width=4, most=8, cost=.005)
  c.probes = (dict(name='prover', before='<switch>0</switch><plan>0</plan><action>', steps=False),)
  c.tracks.main.estimator = (dict(name='v05', prior='prover'),)
  return c
