"""ArenaRL on the quickstart's task: a judge compares rollouts two at a time, a seeded single elimination ranks them. arXiv:2601.06487.

The paper's judge is a language model; the one below counts, so that this runs anywhere: give `judge` your own coroutine from prompt to text.
The paper: 16 rollouts at temperature 0.8, clip bounds 0.2 and 0.28, no KL term, learning rate 1e-6.
"""

import re

from configs import quickstart


async def judge(prompt: str) -> str:
  """Prefers what explored, ran a query without an error and confirmed it."""
  def score(text):
    return 3 * ('<explore>' in text) + 4 * ('<obs> ok' in text) + 3 * ('<answer>' in text) - text.count('<obs> error')
  first, second = re.search('First answer:\n(.*)\n\nSecond answer:\n(.*)\n\nGive each', prompt, re.DOTALL).groups()
  return f'{score(first)} {score(second)}'


def get_config():
  c = quickstart.get_config()
  c.name = 'arena'
  c.tracks.main.estimator = (dict(name='grpo', channel='vote'),)
  c.tracks.main.selector = ()
  warm, rl = c.phases
  c.phases = (warm, {**rl, 'rewards': (dict(name='arena', judge=judge, into='vote'),)})
  return c
