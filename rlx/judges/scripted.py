"""A judge that follows rules: for tests, and for rewards whose verdict a program can give."""

import re
from collections.abc import Callable, Mapping, Sequence


def scripted(*, rules: Mapping[str, str] | Sequence = (), otherwise: str | None = None) -> Callable:
  """Answers with the text of the first rule whose regular expression is found in the prompt.

  Args:
    rules: pattern -> answer, in order; a mapping or pairs. An answer of None is none.
    otherwise: the answer where no rule fits.
  """
  pairs = [(re.compile(p, re.DOTALL), a) for p, a in (rules.items() if hasattr(rules, 'items') else rules)]

  async def judge(prompt: str, *, sample: int = 0) -> str | None:
    del sample
    return next((answer for pattern, answer in pairs if pattern.search(prompt)), otherwise)
  return judge
