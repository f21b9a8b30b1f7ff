"""Pass@k on the quickstart's task: only the best of a prompt's k = 8 rollouts is paid, by its lead over the second. arXiv:2503.19595."""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'pass_at_k'
  c.tracks.main.estimator = (dict(name='pass_at_k', std=True, ddof=1),)
  c.tracks.main.selector = ()
  return c
