"""ARES' hierarchical entropy reward on a probe task: exploring windows behind trigger words, priced by how hard a prompt is. arXiv:2510.08457.

The trigger words are the tags of an action here; the paper's are words of reasoning ('wait', 'however').
"""

from configs import probe


def get_config():
  c = probe.get_config()
  c.name = 'ares'
  c.segment = dict(name='words', of=('switch', 'plan'))
  c.transforms = (dict(name='ares', mode='released'),)
  c.tracks.main.estimator = (dict(name='grpo', channel='ares'),)
  return c
