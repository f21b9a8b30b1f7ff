"""Text to ids and back. The forest keeps ids; text is a view of them, and nothing sampled is ever tokenised again."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from rlx.grow import chat as chats
from rlx.types import Message, Said, Variables

__all__ = ('bpe', 'file', 'pretrained')


class Tokenizer(NamedTuple):
  """A tokenizer as functions. `special` maps the text of a special token to its id."""
  encode: Callable[[str], tuple[int, ...]]
  decode: Callable[[Sequence[int]], str]
  decode_batch: Callable[[Sequence[Sequence[int]]], list[str]]
  offsets: Callable[[Sequence[int]], tuple[str, list[tuple[int, int]]]]   # ids -> (text, (start, stop) of each id in it)
  turn: Callable[[str, bool], tuple[int, ...]]   # (observation, first) -> ids: the chat template's delta
  size: int
  special: dict[str, int]
  save: Callable[[str], None]
  ends: tuple[int, ...] = ()                     # tokens that end a turn, the chat template's own first
  chat: Callable[[Sequence, Sequence[Sequence[int]]], list[int]] | None = None   # (parts, said) -> ids; None: plain text


def wrap(inner: tokenizers.Tokenizer) -> Tokenizer:
  """A `tokenizers` object as a `Tokenizer`. Its turns are plain text: an observation is encoded as it stands."""
  inner.no_truncation()      # a file may say otherwise
  inner.no_padding()
  special = {t.content: i for i, t in inner.get_added_tokens_decoder().items()}

  @functools.lru_cache(maxsize=1 << 16)
  def encode(text):
    return tuple(inner.encode(text, add_special_tokens=False).ids)

  def decode(ids):
    return inner.decode(list(ids), skip_special_tokens=False)

  @functools.cache
  def alone(token):
    return decode([token])

  def offsets(ids):
    """An id inside a character that is not complete yet is empty.

    Where texts of pieces add up to the text of the whole (byte-level vocabularies) each id is read once; where a decoder treats
    the beginning in another way, every prefix is read.
    """
    text, spans, done, first = decode(ids), [], 0, 0
    for i, token in enumerate(ids):
      seen = alone(token) if first == i else decode(ids[first:i + 1])
      stop = done + len(seen) if text.startswith(seen, done) else done
      first = i + 1 if text.startswith(seen, done) else first
      spans.append((done, stop))
      done = stop
    return (text, spans) if done == len(text) else (text, _by_prefix(decode, ids, text))

  return Tokenizer(
      encode=encode, decode=decode, offsets=offsets, turn=lambda obs, first: encode(obs),
      decode_batch=lambda batch: inner.decode_batch([list(b) for b in batch], skip_special_tokens=False),
      size=inner.get_vocab_size(), special=special, save=lambda path: _write(path, inner.to_str()))


def _by_prefix(decode, ids, text):
  spans, done = [], 0
  for i in range(len(ids)):
    seen = decode(ids[:i + 1])
    stop = len(seen) if text.startswith(seen) else done
    spans.append((done, stop))
    done = stop
  return spans


def bpe(*, texts: Iterable[str], size: int = 512, special: Sequence[str] = (), minimum: int = 2, alphabet: str = 'bytes') -> Tokenizer:
  """A byte-level BPE made from texts.

  Args:
    texts: what to learn the merges from.
    size: number of ids at most; the first is the padding `<pad>`, then the special tokens.
    special: tokens that are never split; a space before one belongs to it.
    minimum: a pair seen less often is not merged.
    alphabet: 'bytes': any text can be encoded, 256 ids are spent on it; 'seen': only the characters of the texts, others vanish.

  Raises:
    ValueError: another alphabet.
  """
  if alphabet not in ('bytes', 'seen'):
    raise ValueError(f"alphabet is 'bytes' or 'seen', not {alphabet!r}.")
  added = [AddedToken(t, lstrip=True, special=True) for t in ('<pad>', *special)]
  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  inner.decoder = decoders.ByteLevel()
  inner.train_from_iterator(texts, trainers.BpeTrainer(
      vocab_size=size, special_tokens=added, show_progress=False, min_frequency=minimum,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()) if alphabet == 'bytes' else []))
  return wrap(inner)


def file(*, path: str) -> Tokenizer:
  """A `tokenizer.json` of the `tokenizers` library.

  Raises:
    FileNotFoundError: it is not there.
    ValueError: it cannot be read.
  """
  if not os.path.isfile(path):
    raise FileNotFoundError(f"tokenizer file '{path}' does not exist.")
  with open(path, encoding='utf-8') as f:
    text = f.read()
  try:
    json.loads(text)
    return wrap(tokenizers.Tokenizer.from_str(text))
  except Exception as e:   # the library raises bare Exception
    raise ValueError(f"'{path}' is not a tokenizer.json: {e}") from e


def pretrained(*, path: str, template: str | None = 'own', date: str | None = None) -> Tokenizer:
  """The tokenizer of a pretrained model, with its chat template.

  With a template every context is a conversation: in `append` and `window` observations are messages of the user, actions are
  the assistant's, and what is encoded is the template's delta; the context `chat` says more. The template's end of turn, the
  model's `eos_token` and what its generation_config.json stops at (Llama 3's call of a tool) end an action, and are not part of its text.

  Args:
    path: the folder of the model.
    template: 'own': the model's, plain text if it has none; None: plain text, for a base model; else a jinja text or its file.
    date: the day a template is told, as '2024-07-26' (which is the default): a run must not depend on the day it is started.

  Raises:
    FileNotFoundError: no such file of a template.
    ValueError: a folder without a tokenizer, a file that cannot be read, a template that cannot be compiled.
  """
  from rlx.models.pretrained import tokenizer_files   # it needs the extra of pretrained models
  files = tokenizer_files(path)
  config = files['config']
  try:
    json.loads(files['tokenizer'])
    inner = tokenizers.Tokenizer.from_str(files['tokenizer'])
  except Exception as e:   # the library raises bare Exception
    raise ValueError(f"the tokenizer of '{path}' cannot be read: {e}") from e
  date = date or config.get('template_date') or chats.DATE
  text = _template(files, path) if template == 'own' else template
  if text and '{' not in text:
    with open(text, encoding='utf-8') as f:
      text = f.read()
  tokens = {k: v['content'] if isinstance(v, Mapping) else v for k, v in config.items()
            if k.endswith('_token') and isinstance(v, str | Mapping)}
  show = chats.template(text or '', values=tokens, date=date)
  tok = wrap(inner)
  generation = files.get('generation')
  tok = tok._replace(ends=tuple(dict.fromkeys((*chats.ends(show, tok.special, tokens.get('eos_token')), *_eos(generation, tok.special)))),
                     save=lambda to: _save(to, inner.to_str(), config, text, date, generation))
  if not text:
    begin = tokens.get('bos_token') if config.get('add_bos_token') or inner.encode('').ids else None
    head = (tok.special[begin],) if begin in tok.special else ()
    return tok._replace(turn=lambda obs, first: (head if first else ()) + tok.encode(obs))
  ids = lambda text: tuple(inner.encode(text, add_special_tokens=False).ids)    # renderings are long, and remembered as rows
  chat = chats.rows(show, ids, tok.decode, tok.ends)

  def turn(obs, first):
    """What follows an action that was ended."""
    if first:
      return tuple(chat([obs], []))
    ended = tok.ends[:1]
    return tuple(chat(['', Said(0), obs], [ended])[len(chat([''], [])) + len(ended):])

  return tok._replace(chat=chat, turn=turn)


def _template(files, path):
  """The model's own template; the config may hold it too, or several by name."""
  text = files['template'] or files['config'].get('chat_template')
  if isinstance(text, list):
    named = {t['name']: t['template'] for t in text}
    if 'default' not in named:
      raise ValueError(f"the chat templates of '{path}' are called {sorted(named)}, none 'default': give one as `template`.")
    text = named['default']
  return text


def _eos(generation, special):
  """The added tokens among the ids of a generation_config.json's `eos_token_id`."""
  ids = (generation or {}).get('eos_token_id')
  return [i for i in (ids if isinstance(ids, list) else [ids]) if i in special.values()]


def _save(path, text, config, template, date, generation):
  """tokenizer.json, and beside it what makes it a chat tokenizer again, here and elsewhere."""
  kept = {k: v for k, v in config.items() if k != 'chat_template'}
  kept.update({'chat_template': template} if template else {}, template_date=date)
  _write(os.path.join(os.path.dirname(path), 'tokenizer_config.json'), json.dumps(kept, indent=1, ensure_ascii=False))
  if generation:
    _write(os.path.join(os.path.dirname(path), 'generation_config.json'), json.dumps(generation, indent=1))
  _write(path, text)


def _write(path, text):
  part = path + '.part'
  with open(part, 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(part, path)


def render(parts: Sequence, said: Sequence[Sequence[int]], tok: Tokenizer) -> list[int]:
  """The ids of a context: texts are encoded once (and cached), `Said(step)` repeats the ids of an earlier action.

  Raises:
    ValueError: messages for a tokenizer without a chat template; what the template refuses.
  """
  if tok.chat:
    return tok.chat(parts, said)
  ids: list[int] = []
  for k, part in enumerate(parts):
    if isinstance(part, Message | Variables):
      raise ValueError("this context speaks in messages, and the tokenizer has no chat template: take the context 'append', or give "
                       'the tokenizer a `template`.')
    ids += tok.turn(part, k == 0) if isinstance(part, str) else said[part.step]
  return ids


def body(ids: Sequence[int], tok: Tokenizer) -> Sequence[int]:
  """An action without the token that ended its turn: what its text shows."""
  return ids[:-1] if len(ids) and ids[-1] in tok.ends else ids


def shown(text: str, tok: Tokenizer) -> list[int]:
  """The ids of an action that was written, not sampled: to a chat model it shows where a turn ends."""
  ids = list(tok.encode(text))
  return ids if not tok.chat or body(ids, tok) is not ids else [*ids, *tok.ends[:1]]
