"""Dr. GRPO on the quickstart's task: no division by the deviation, and token sums over a fixed length. arXiv:2503.20783.

The length is the most tokens an episode may say. The quickstart has the same advantage, but averages over tokens and leaves prompts
without variance out, which the paper does not.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'dr_grpo'
  c.tracks = dict(main=dict(estimator=(dict(name='grpo', std=False),), selector=(), average=dict(name='constant', length=64.),
                            loss=(dict(name='ppo_clip', low=.2, high=.2),), coef=1.))
  return c
