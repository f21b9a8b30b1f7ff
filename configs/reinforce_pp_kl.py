"""REINFORCE++ on the quickstart's task with a KL penalty in the reward of each token. arXiv:2501.03262.

The reference is the policy as RL begins, after the imitation. Coefficient 0.001, kind k1 (verl's).
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'reinforce_pp_kl'
  c.models.reference = dict(copy='policy')
  c.tracks.main.estimator = (dict(name='reinforce_pp', token_reward='reward'),)
  c.tracks.main.selector = ()
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'transforms': (dict(name='score', model='reference', into='ref_logp'),
                                          dict(name='kl_reward', coef=.001, kind='k1'))})
  return c
