"""TreePS-RAG on a probe task: a step is paid what it adds to the mean outcome of the leaves below it. arXiv:2601.06922.

Two next steps at each of three levels, then on to the end. How a value becomes an advantage is not known: 'td' here, 'sib'
and 'mix' are there too.
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'treeps'
  c.explorer = dict(name='levels', widths=(2, 2, 2))
  c.tracks.main.estimator = (dict(name='treeps', mode='td'),)
  return c
