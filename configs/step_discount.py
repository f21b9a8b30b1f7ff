"""GiGPO's step returns without its anchors on the quickstart's task: normalised over all steps of the prompt. arXiv:2505.10978."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'step_discount'
  c.tracks.main.estimator = (dict(name='step_discount', gamma=.95, pool='prompt', std=True),)
  return c
