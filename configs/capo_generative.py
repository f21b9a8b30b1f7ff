"""CAPO on the quickstart's task: 2 for a right answer, less 1 on the steps found wrong. arXiv:2508.02298.

A rule stands for the judge: an action that is not well formed is a wrong step. The reward `capo` asks a model. The paper: 16 rollouts, 4
critiques of Qwen2.5-72B.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'capo_generative'
  c.rewards = (dict(name='format', pattern='<(explore|sql|answer)>.*</\\1>', per='step', right=0., wrong=-1.),)
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'tracks.main.estimator': (dict(name='capo_generative', process='format', whole=2., part=1.),),
                     'tracks.main.selector': ()})
  return c
