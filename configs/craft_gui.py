"""CRAFT-GUI's mixed reward on a probe task: actions are paid by rule, an answer at the end by a judge. arXiv:2508.11360.

There is no screen here: the first action must repeat the cue, any goes after that, and the last one answers what the cue
was. The judge follows a rule, so that this runs anywhere. The weights are ours; the paper's curriculum by difficulty is left
out.
"""

import re

from configs import probe


def gold(episode):
  """The steps of an episode as they should be."""
  cue = episode.task.data['answer']
  first, last = dict(type='act', args=dict(action=cue)), dict(question='What was shown first?', answer=cue)
  return [first, *[dict(type='act')] * 6, last]


def read(text):
  """An action of three fields."""
  said = dict(re.findall(r'<(switch|plan|action)>\s*(\d)\s*</', text))
  return dict(type='act', args={**said, 'text': said['action']}) if len(said) == 3 else None


def get_config():
  c = probe.get_config()
  c.name = 'craft_gui'
  judge = dict(name='scripted', rules=((r'Right answer:\n(\d)\n.*Given answer:\n\1\n', 'Score: 10'),), otherwise='Score: 0')
  c.rewards = (dict(name='craft_gui', judge=judge, gold=gold, read=read),)
  c.tracks.main.estimator = (dict(name='grpo', channel='gui'),)
  return c
