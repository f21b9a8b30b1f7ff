"""Text to ids and back. The forest keeps ids; text is a view of them, and nothing sampled is ever tokenised again."""

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers


__all__ = ('bpe', 'file')


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


def wrap(inner: tokenizers.Tokenizer) -> Tokenizer:
  """A `tokenizers` object as a `Tokenizer`. Its turns are plain text: an observation is encoded as it stands."""
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


def _write(path, text):
  part = path + '.part'
  with open(part, 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())
  os.replace(part, path)


def render(parts: Sequence, said: Sequence[Sequence[int]], tok: Tokenizer) -> list[int]:
  """The ids of a context: texts are encoded once (and cached), `Said(step)` repeats the ids of an earlier action."""
  ids: list[int] = []
  for k, part in enumerate(parts):
    ids += tok.turn(part, k == 0) if isinstance(part, str) else said[part.step]
  return ids
