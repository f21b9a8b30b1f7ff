"""A conversation, for models with a chat template."""

from collections.abc import Mapping, Sequence

from rlx.types import Message, Said, Task, Turn, Variables


def chat(history: Sequence[Turn], task: Task, *, system: str | None = None, tools: Sequence[Mapping] | None = None,
         thinking: bool | None = None, observation_role: str = 'user') -> list[Message | Variables]:
  """The whole history as messages: the user asks, the assistant acts, the environment answers.

  Where the template rewrites what was said, as Qwen3's does with the thoughts before a user's newest message, a new row starts.

  Args:
    history: the turns of one path; the last one has no action yet, nor has the first where on_full='window' dropped turns.
    task: not used.
    system: the system message; None: the template's own, if it has one.
    tools: JSON schemas of functions, as the template shows them.
    thinking: `enable_thinking` of the template; None: its own choice.
    observation_role: who says what follows an action, 'user' or 'tool'.

  Raises:
    ValueError: another role.
  """
  del task
  if observation_role not in ('user', 'tool'):
    raise ValueError(f"observation_role is 'user' or 'tool', not {observation_role!r}.")
  values = {**({'tools': tools} if tools else {}), **({} if thinking is None else {'enable_thinking': thinking})}
  parts = [Variables(values)] if values else []
  if system is not None:
    parts.append(Message('system', system))
  for step, turn in enumerate(history):
    parts.append(Message(observation_role if step else 'user', turn.obs))
    if turn.text is not None:
      parts.append(Message('assistant', Said(step)))
  return parts
