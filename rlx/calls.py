"""Tool calls in what a model says: read strictly, since it is hostile text. For environments."""

import json
import math
import re
from typing import Any, NamedTuple

NAME = re.compile(r'[A-Za-z0-9_.:-]{1,64}')


class Call(NamedTuple):
  """A function that the model wants called."""
  name: str
  arguments: dict[str, Any]


def calls(text: str, *, tags: tuple[str, str] | None = ('<tool_call>', '</tool_call>'), limit: int = 8, size: int = 1 << 16,
          depth: int = 16) -> list[Call]:
  """The tool calls of an action: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Qwen's templates ask for them.

  What stands in a thought, up to the last `</think>`, is no call. Nothing is forgiven: no second key of one name, no key beside
  these two (`parameters`, as Llama 3.1 has it, is another name for `arguments`), no number that JSON does not have.

  Args:
    text: the text of the action.
    tags: what stands around a call; None: the text is one call as a whole if it begins with `{`, as Llama 3.1 writes it.
    limit: calls at most.
    size: characters of a call at most.
    depth: lists and objects inside one another at most.

  Returns:
    The calls in their order, [] where there is none.

  Raises:
    ValueError: a call that is not what it should be; the sentence can be shown to the model.
  """
  said = text.rpartition('</think>')[2]
  said = said.partition('<think>')[0].strip()
  if tags is None:
    return [_call(said, 'the tool call', size, depth)] if said.startswith('{') else []
  found, (begin, end), at = [], tags, 0
  while (start := said.find(begin, at)) >= 0:
    name = f'tool call {len(found) + 1}'
    if len(found) == limit:
      raise ValueError(f'there are more than {limit} tool calls.')
    stop = said.find(end, start)
    if stop < 0:
      raise ValueError(f'{name} is not closed: {end} is missing.')
    found.append(_call(said[start + len(begin):stop].strip(), name, size, depth))
    at = stop + len(end)
  return found


def _call(text, name, size, depth):
  if len(text) > size:
    raise ValueError(f'{name} has more than {size} characters.')
  if _depth(text) > depth:
    raise ValueError(f'{name} is nested more than {depth} deep.')
  try:
    value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
    json.dumps(value, ensure_ascii=False).encode()      # half a surrogate pair is no text
  except UnicodeError:
    raise ValueError(f'{name} holds characters that do not exist.') from None
  except (ValueError, RecursionError) as e:
    raise ValueError(f'{name} is not JSON: {e}') from None
  keys = set(value) if isinstance(value, dict) else set()
  if keys not in ({'name', 'arguments'}, {'name', 'parameters'}):
    raise ValueError(f"{name} must be an object with the keys 'name' and 'arguments'.")
  arguments = value[(keys - {'name'}).pop()]
  if not isinstance(value['name'], str) or not NAME.fullmatch(value['name']):
    raise ValueError(f"{name}: 'name' must be the name of a function.")
  if not isinstance(arguments, dict):
    raise ValueError(f"{name}: 'arguments' must be an object.")
  return Call(value['name'], arguments)


def _depth(text):
  """How deep the brackets outside of strings go; without recursion."""
  now = deepest = 0
  for m in re.finditer(r'"(?:[^"\\]|\\.)*+["\\]?|[\[{\]}]', text, re.DOTALL):
    now += (m[0] in '[{') - (m[0] in ']}')
    deepest = max(deepest, now)
  return deepest


def _object(pairs):
  out = dict(pairs)
  if len(out) < len(pairs):
    raise ValueError('a key stands twice in one object')
  return out


def _constant(word):
  raise ValueError(f'{word} is no JSON number')


def _float(text):
  if not math.isfinite(value := float(text)):
    raise ValueError(f'{text[:20]} is too large')
  return value
