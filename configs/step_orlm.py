"""StepORLM's weighted DPO on a probe task: right episodes against wrong ones, else by the share of correct steps. arXiv:2509.22558.

The noisy step scores stand for its generative process reward model, which it also trains. The number of rollouts and beta were not
published.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'step_orlm'
  c.env.task = 'plan_execute'
  warm, rl = c.phases
  loss = dict(name='step_orlm', beta=.1, above=.99)
  main = dict(estimator=('ones',), selector=(), average='seq_mean', loss=(loss,), coef=1.)
  c.phases = (warm, {**rl, 'unit': 'group', 'tracks': dict(main=main)})
  return c
