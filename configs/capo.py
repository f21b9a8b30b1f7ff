"""CAPO on the probe task: a judge lists the wrong steps of an episode, four times; all four must agree. arXiv:2508.02298.

The paper: outcome 2, a wrong step -1, 16 rollouts, Qwen2.5-72B as the judge. Here a script is the judge (it knows what the task
asks), dict(name='http', url=..., model=...) is a real one.
"""

from configs import probe

RIGHT = (r'Task:\no(\d)\n.*Step 1: [^\n]*<action>\1</action>', 'Wrong steps: none')      # it repeats what it was shown


def get_config():
  c = probe.get_config()
  c.name = 'capo'
  c.explorer.width, c.on_policy_prompts = 16, 2
  judge = dict(name='scripted', rules=(RIGHT,), otherwise='Wrong steps: 1')
  c.rewards = (dict(name='capo', critiques=4, vote='intersection', judge=judge),)
  c.tracks.main.estimator = (dict(name='capo_generative', process='process', whole=2., part=1.),)
  return c
