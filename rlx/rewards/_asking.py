"""What a judge is shown of an episode, and how its answer is read."""

import re

from rlx.types import Episode


def attempt(episode: Episode, steps: int | None = None) -> str:
  """What was said in the first `steps` steps (None: all), numbered from 1, and what was observed after each."""
  lines, n = [], len(episode.nodes) if steps is None else steps
  for j, node in enumerate(episode.nodes[:n + 1]):
    lines += [f'Observed: {node.obs.strip()}'] * (j > 0 and bool(node.obs.strip()))
    lines += [f'Step {j + 1}: {node.text.strip()}'] * (j < n)
  return '\n'.join(lines)


def verdict(text: str | None) -> bool | None:
  """The last line of the form 'Verdict: right' or 'Verdict: wrong'; None where there is none."""
  said = re.findall(r'^\W*verdict\W+(right|wrong)\W*$', text or '', re.IGNORECASE | re.MULTILINE)
  return said[-1].casefold() == 'right' if said else None
