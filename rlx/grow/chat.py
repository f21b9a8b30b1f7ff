"""Chat templates: messages to text, and contexts of messages to the ids of a row.

A template is the jinja text that a pretrained model was tuned with; its renderings are those of `transformers`. It comes with
the weights, so it is untrusted: it runs in a sandbox on plain values, and neither the date nor a random filter makes two runs
differ.
"""

import collections
import datetime
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from rlx.types import Message, Said, Variables

DATE = '2024-07-26'   # the day Llama's own template falls back on
KEPT = 1024           # rows remembered: paths that grow at once, and then some


# ---- messages to text --------------------------------------------------------------------------------------------------

class _Generation(jinja2.ext.Extension):
  """`{% generation %}` marks what the assistant said; nothing here asks for it."""
  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    return jinja2.nodes.Scope(parser.parse_statements(('name:endgeneration',), drop_needle=True), lineno=line)


class _Namespace(jinja2.utils.Namespace):
  """Jinja's, without names that begin with an underscore: none leads to Python's internals."""

  def __init__(*args, **values):      # a template may use `self` as a name
    for name in dict(*args[1:], **values):
      _public(name)
    jinja2.utils.Namespace.__init__(args[0], *args[1:], **values)

  def __setitem__(self, name, value):
    _public(name)
    super().__setitem__(name, value)


def _public(name):
  if str(name).startswith('_'):
    raise jinja2.exceptions.SecurityError(f'a chat template cannot set {name!r}: it begins with an underscore')


def template(text: str, *, values: Mapping[str, Any] | None = None, date: str = DATE) -> Callable[..., str]:
  """Compiles a chat template.

  Args:
    text: the jinja text.
    values: variables it always sees: `bos_token`, `eos_token` ...
    date: the day that `strftime_now` tells, year-month-day; fixed, so that a run can be repeated.

  Returns:
    `show(messages, values={}, generate=True) -> str`: the conversation `[(role, text)]`, and with `generate` the beginning of the
    answer. `values` may hold `tools`, `enable_thinking` ... It raises ValueError where the template does, naming the role.

  Raises:
    ValueError: the text is no template, or the date is none.

  Source: `apply_chat_template` of transformers, https://huggingface.co/docs/transformers/chat_templating. Known deviations: the
  date is fixed, and the filter `random` and `lipsum` do not exist.
  """
  try:
    day = datetime.datetime.fromisoformat(date)
  except (TypeError, ValueError) as e:
    raise ValueError(f"the date of a chat template is written as '{DATE}', not {date!r}.") from e
  world = jinja2.sandbox.ImmutableSandboxedEnvironment(
      trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols])
  del world.filters['random'], world.globals['lipsum']
  world.filters['tojson'] = _tojson
  world.globals.update(raise_exception=_raise, strftime_now=day.strftime, dict=lambda *a, **k: dict(*a, **k), namespace=_Namespace)
  try:
    compiled = world.from_string(text)
  except jinja2.TemplateSyntaxError as e:
    raise ValueError(f'the chat template cannot be read, line {e.lineno}: {e.message}') from e
  fixed = dict(values or {})

  def plain(messages, values, generate):
    said = [dict(role=role, content=content) for role, content in messages]
    return compiled.render(**{**fixed, 'tools': None, 'documents': None, **values}, messages=said, add_generation_prompt=generate)

  def show(messages, values={}, generate=True):
    try:
      return plain(messages, values, generate)
    except Exception as e:   # foreign code: whatever it raises is its way of saying no
      error = e
    for n in range(1, len(messages) + 1):      # the first message that it does not take, for the same reason
      try:
        plain(messages[:n], values, generate)
      except Exception as e:
        if str(e) == str(error):
          break
    role = f"message {n}, of role '{messages[n - 1][0]}'" if messages else 'a conversation that begins with an action'
    raise ValueError(f"the chat template refuses {role} (the roles are {', '.join(r for r, _ in messages) or 'none'}): "
                     f'{error}; choose other roles, another context, or another `template` of the tokenizer.') from error

  return show


def _tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
  """Jinja's own filter writes HTML's escapes."""
  return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message):
  raise jinja2.TemplateError(message)


def ends(show: Callable, special: Mapping[str, int], eos: str | None) -> tuple[int, ...]:
  """The tokens that end a turn: what the template writes behind an answer, if that is one token, then `eos`.

  Raises:
    ValueError: `eos` is no token.
  """
  if eos is not None and eos not in special:
    raise ValueError(f"eos_token '{eos}' of the tokenizer's config is not among its added tokens {sorted(special)[:8]}.")
  mark = 'answer of the assistant'
  try:
    _, found, behind = show([('user', 'question'), ('assistant', mark)], generate=False).rpartition(mark)
  except ValueError:      # a template that needs more than this to begin with
    found = behind = ''
  own = sorted((t for t in special if found and behind.startswith(t)), key=len)[-1:]
  return tuple(dict.fromkeys(special[t] for t in (*own, *([eos] if eos else []))))


# ---- contexts to rows ----------------------------------------------------------------------------------------------------

def rows(show: Callable, encode: Callable, decode: Callable, end: Sequence[int], kept: int = KEPT) -> Callable[..., list[int]]:
  """Contexts to ids, so that nothing sampled is tokenised again in a row that trains it.

  The row grows from action to action. Before each, the template is rendered with the texts of all messages so far. If that
  begins with the text of the row, only the rest is encoded and appended; otherwise the template has rewritten what was said (a
  thought is dropped, spaces are trimmed) and a new row starts with the whole of it, in which old actions are text like any
  other. Then the ids of the action are appended as they were sampled. What ends a turn is part of the row once: sampled, or
  else written by the template.

  Args:
    show: a compiled `template`.
    encode: text to ids.
    decode: ids to text.
    end: the tokens that end a turn; one at the end of an action is not part of what it says.
    kept: rows that are remembered. An episode of n turns is rendered n times, not n^2 / 2.

  Returns:
    `render(parts, said) -> ids`, up to where the next action begins. A text among the parts is a message of the user, `Said` one
    of the assistant.
  """
  memory: collections.OrderedDict = collections.OrderedDict()
  known: dict[str, Mapping] = {}

  @functools.lru_cache(maxsize=1 << 14)
  def spoken(ids):
    stop = len(ids) - (ids[-1] in end if ids else 0)
    return decode(ids[:stop]), decode(ids[stop:])

  def texts(messages):
    return [(role, spoken(content)[0] if isinstance(content, tuple) else content) for role, content in messages]

  def render(parts, said):
    values, messages = _messages(parts, said)
    name = json.dumps(values, sort_keys=True) if values else ''
    cuts = [i for i, (_, content) in enumerate(messages) if isinstance(content, tuple)] + [len(messages)]
    if name not in known:
      plain = json.loads(json.dumps(values))      # a template sees plain values only
      _used(show, plain, texts(messages[:cuts[0]]))
      known[name] = plain
    at = next((i for i in reversed(range(len(cuts))) if (name, messages[:cuts[i]]) in memory), -1)
    ids, text = (), ''
    if at >= 0:
      memory.move_to_end((name, messages[:cuts[at]]))
      ids, text = memory[name, messages[:cuts[at]]]
    for before, cut in zip([None, *cuts][at + 1:], cuts[at + 1:]):
      if before is not None:
        action = messages[before][1]
        ids, text = (*ids, *action), text + ''.join(spoken(action))
      whole = show(texts(messages[:cut]), known[name])
      ids = (*ids, *encode(whole[len(text):])) if whole.startswith(text) else tuple(encode(whole))
      text = whole
      memory[name, messages[:cut]] = ids, text
    while len(memory) > kept:
      memory.popitem(last=False)
    return list(ids)

  return render


def _messages(parts, said):
  """(variables, ((role, text or the ids of an action), ...))."""
  values, messages = {}, []
  for part in parts:
    if isinstance(part, Variables):
      values.update(part.values)
      continue
    role, content = part if isinstance(part, Message) else ('assistant' if isinstance(part, Said) else 'user', part)
    messages.append((role, tuple(said[content.step]) if isinstance(content, Said) else content))
  return values, tuple(messages)


def _used(show, values, messages):
  """Raises where the template takes no notice of a variable."""
  for name, value in values.items():
    other = not value if isinstance(value, bool) else None
    if show(messages, values) == show(messages, {**values, name: other}):
      raise ValueError(f"the chat template takes no notice of `{name}`: leave it out, say it in the context's `system`, or give the "
                       'tokenizer another `template`.')
