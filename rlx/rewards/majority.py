"""Pays answers that agree with what most rollouts of the prompt say: no right answer is needed."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from rlx.rewards.exact import normal
from rlx.types import Episode

writes = ('reward/task', 'judged/task', 'reward/vote', 'judged/vote')


def majority(episodes: Sequence[Episode], *, answer: str | None = None, of: str = 'last', train: int | None = None,
             same: Callable[[str, str], bool] | None = None, missing: str = 'competes', into: str = 'task') -> list[dict]:
  """Pays 1 for the answer that most episodes of the prompt give, 0 for another (TTRL, arXiv:2504.16084).

    reward_i = 1{answer_i = the most frequent of all answers}       a tie goes to the answer that came first

  Answers are compared as `exact` does. In the paper 64 episodes vote and the first 32 are trained.

  Args:
    episodes: those of one prompt.
    answer: how the answer is read: None: the whole action; a word: the last <word>...</word>; else a regular expression, its last
      match, of that the first group if it has one.
    of: 'last': in the last action only; 'episode': in the last action that has one.
    train: only the first so many episodes are paid, the others have no verdict: they vote, and get no credit. None: all.
    same: decides whether an answer is the voted one, for instance a verifier; None: equal texts.
    missing: episodes without an answer: one answer like another, which may win ('competes', as released), or without a vote and
      never paid ('abstains').
    into: channel: 'task', or 'vote' where the environment pays 'task' itself.

  Returns:
    {into: one float a step} for each episode, on its last step.

  Raises:
    ValueError: `of`, `missing` or `into` is none of these.

  Source: PRIME-RL/TTRL@3e2cc937 `verl/verl/utils/reward_score/ttrl/ttt_metrics.py`, `reward_manager/ttrl.py` (which writes each reward at the
  length of the last rollout; here each is on its own last step).

  Proof: twin.
  """
  if missing not in ('competes', 'abstains'):
    raise ValueError(f"missing is 'competes' or 'abstains', not {missing!r}.")
  said = answers(episodes, answer=answer, of=of)
  votes = Counter(a for a in said if a is not None or missing == 'competes')
  voted = votes.most_common(1)[0][0] if votes else None
  agree = lambda a: a == voted if same is None or a is None or voted is None else same(a, voted)
  paid = [float(bool(votes) and (a is not None or missing == 'competes') and agree(a)) for a in said]
  return on_last(episodes, [p if train is None or i < train else None for i, p in enumerate(paid)], into)


majority.grain = 'group'


def answers(episodes: Sequence[Episode], *, answer: str | None = None, of: str = 'last') -> list[str | None]:
  """The answer of each episode as it is compared, None where there is none; `answer` and `of` as in `majority`.

  Raises:
    ValueError: `of` is neither.
  """
  if of not in ('last', 'episode'):
    raise ValueError(f"of is 'last' or 'episode', not {of!r}.")
  pattern = f'<{answer}>(.*?)</{answer}>' if re.fullmatch(r'\w+', answer or '') else answer

  def read(episode):
    for node in list(episode.nodes)[:-2 if of == 'last' else None:-1]:
      text = re.sub(r'<\|[^|<>]*\|>', '', node.text)
      found = [text] if pattern is None else [m[1 if m.re.groups else 0] or '' for m in re.finditer(pattern, text, re.DOTALL)]
      if found:
        return normal(found[-1]) or found[-1].strip() or None
    return None
  return [read(e) for e in episodes]


def on_last(episodes: Sequence[Episode], paid: Sequence[float | None], channel: str) -> list[dict]:
  """One number an episode, on its last step; None: no verdict.

  Raises:
    ValueError: a channel that these rewards do not write.
  """
  if channel not in ('task', 'vote'):
    raise ValueError(f"into is 'task' or 'vote', not {channel!r}.")
  return [{channel: [0.] * (len(e.nodes) - 1) + [p]} for e, p in zip(episodes, paid, strict=True)]
