"""EGAE of T-PPO on the quickstart's task: PPO with a critic on episodes of which the longer ones are cut off. arXiv:2506.15050.

An episode has 4 steps at most; one that needs more is bootstrapped and teaches the critic nothing. The paper's windows go on in the next
step; here a cut off episode is over. The paper: 512 prompts of 16, windows of 8,000 tokens.
"""

from configs import ppo


def get_config():
  c = ppo.get_config()
  c.name = 'egae'
  egae = dict(name='egae', gamma=1., lam=.95)
  warm, rl = c.phases
  c.sampler.max_steps = 4
  c.phases = (warm, {**rl, 'tracks.main.estimator': (egae,), 'learners.critic.tracks.value.estimator': (egae,),
                     'learners.critic.tracks.value.selector': ('finished',)})
  return c
