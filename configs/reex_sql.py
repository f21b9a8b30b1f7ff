"""ReEx-SQL's composite reward on the quickstart's task: form 2, execution 3, exact 1, entities 1, exploring 2. arXiv:2505.12768.

The quickstart's queries before the last stand for the paper's <intermediate_sql> blocks. Its tree decoding is not here.
"""

from configs import quickstart


def get_config():
  c = quickstart.get_config()
  c.name = 'reex_sql'
  c.rewards = (dict(name='reex_sql', intermediate=None),)
  c.tracks.main.estimator = (dict(name='grpo', channel='reex'),)
  return c
