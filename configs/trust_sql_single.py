"""TRUST-SQL with one loss, as its release can also run: the schema's advantage is added up to the last proposal. arXiv:2603.16448.

World, policy and imitation are those of `trust_sql`, whose two tracks are the paper's form.
"""

from configs import trust_sql


def get_config():
  c = trust_sql.get_config()
  c.name = 'trust_sql_single'
  answer = c.tracks.answer
  del c.tracks.schema, c.tracks.answer
  answer.estimator = (*answer.estimator, dict(name='trust_sql', form='sum', weight=.5))
  c.tracks.main = answer
  return c
