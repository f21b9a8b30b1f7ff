"""Pays actions that look as they should."""

import re

from rlx.types import Episode

writes = ('reward/format',)


def format(episode: Episode, *, pattern: str, per: str = 'episode', right: float = 0.1, wrong: float = 0.) -> dict[str, list]:
  """Pays actions that match a regular expression as a whole, spaces around them aside (`.` matches line ends too).

  Args:
    episode: any.
    pattern: the regular expression.
    per: 'step': each step is paid by itself; 'episode': the last step is paid, `right` if every action matches.
    right: reward of a match.
    wrong: reward elsewhere.

  Returns:
    {'format': one float a step}.

  Raises:
    ValueError: `per` is neither.

  Proof: twin.
  """
  if per not in ('step', 'episode'):
    raise ValueError(f"per is 'step' or 'episode', not '{per}'")
  match = [re.fullmatch(pattern, n.text.strip(), re.DOTALL) is not None for n in episode.nodes]
  if per == 'step':
    return {'format': [right if m else wrong for m in match]}
  return {'format': [0.] * (len(match) - 1) + [right if all(match) else wrong]}


format.grain = 'episode'
