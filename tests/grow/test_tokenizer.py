"""Tokenizers: round trips, special tokens, offsets, files, and contexts to ids."""

import random
import time

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from rlx.grow import tokenizer
from rlx.types import Said

TEXTS = ['select name from city where people > 100 ;', 'the answer is <answer> 12 </answer> .'] * 4
TOK = tokenizer.bpe(texts=TEXTS, size=320, special=('<answer>', '</answer>'))


def test_text_comes_back():
  for text in ('select name from city', 'x', '', '  two  spaces\n', 'naïve – 😀 日本', 'quite unseen: ~!{}'):
    ids = TOK.encode(text)
    assert isinstance(ids, tuple) and all(0 <= i < TOK.size for i in ids)
    assert TOK.decode(ids) == text == TOK.decode(list(ids))
  assert TOK.decode_batch([TOK.encode('a b'), ()]) == ['a b', '']
  assert len(TOK.encode(' name')) == 1 and TOK.size <= 320


def test_special_tokens_are_never_split():
  assert TOK.special == {'<pad>': 0, '<answer>': 1, '</answer>': 2}
  ids = TOK.encode('is <answer> 12 </answer>')
  assert ids.count(1) == ids.count(2) == 1
  assert TOK.decode(ids) == 'is<answer> 12</answer>', 'the space before one belongs to it'
  assert TOK.decode([1, 2]) == '<answer></answer>', 'they are text too'


def test_a_vocabulary_is_a_function_of_its_texts():
  again = tokenizer.bpe(texts=iter(TEXTS), size=320, special=('<answer>', '</answer>'))
  assert all(again.encode(t) == TOK.encode(t) for t in TEXTS)
  rare = tokenizer.bpe(texts=['zyxw'], size=300, minimum=2)
  assert len(rare.encode('zyxw')) == 4, 'a pair seen once is not merged'


def by_prefixes(tok, ids):
  """The definition: an id reaches as far as the text of the ids up to it, where that is a beginning of the whole."""
  text, spans, done = tok.decode(ids), [], 0
  for i in range(len(ids)):
    seen = tok.decode(ids[:i + 1])
    stop = len(seen) if text.startswith(seen) else done
    spans.append((done, stop))
    done = stop
  return text, spans


def test_offsets():
  text, spans = TOK.offsets(TOK.encode(' name of <answer> 😀!'))
  assert text == ' name of<answer> 😀!'
  words = [text[a:b] for a, b in spans]
  assert ''.join(words) == text and words[0] == ' name' and '<answer>' in words
  assert words.count('😀') == 1 and '' in words, 'a character made of several ids belongs to the last of them'
  assert TOK.offsets([]) == ('', [])


@pytest.mark.parametrize('seed', range(6))
def test_offsets_of_any_ids(seed):
  """Bytes that make no character, characters cut in the middle, special tokens."""
  rng = random.Random(seed)
  emoji = TOK.encode('😀é日')
  ids = [rng.choice([rng.randrange(TOK.size), *emoji]) for _ in range(30)] + list(emoji[:seed])
  text, spans = TOK.offsets(ids)
  assert text == TOK.decode(ids) and [0, *(b for _, b in spans)] == [*(a for a, _ in spans), len(text)] and all(a <= b for a, b in spans)
  clean = list(TOK.encode(''.join(rng.choice(['ab', ' 😀', '日本', ' name', '<answer>', 'é']) for _ in range(20))))
  assert TOK.offsets(clean) == by_prefixes(TOK, clean)


def test_offsets_of_a_decoder_that_strips_the_first_space():
  """Metaspace: the text of a piece is not the text it has inside a whole."""
  inner = tokenizers.Tokenizer(models.WordLevel({'▁a': 0, '▁b': 1, 'c': 2, '?': 3}, unk_token='?'))
  inner.pre_tokenizer = pre_tokenizers.Metaspace()
  inner.decoder = decoders.Metaspace()
  tok = tokenizer.wrap(inner)
  assert tok.decode([1]) == 'b' and tok.decode([0, 1]) == 'a b'
  assert tok.offsets([0, 1, 2, 0]) == ('a bc a', [(0, 1), (1, 3), (3, 4), (4, 6)]) == by_prefixes(tok, [0, 1, 2, 0])


def test_offsets_cost_one_reading():
  ids = list(TOK.encode('select name from city 😀 where people ; ')) * 350
  began = time.process_time()
  text, spans = TOK.offsets(ids)
  assert time.process_time() - began < .25 and spans[-1][1] == len(text) and len(ids) > 4000


def test_files(tmp_path):
  path = str(tmp_path / 'tokenizer.json')
  TOK.save(path)
  back = tokenizer.file(path=path)
  assert back.size == TOK.size and back.special == TOK.special and [p.name for p in tmp_path.iterdir()] == ['tokenizer.json']
  for text in (*TEXTS, 'x <answer> 😀'):
    assert back.encode(text) == TOK.encode(text) and back.offsets(back.encode(text)) == TOK.offsets(TOK.encode(text))
  with pytest.raises(FileNotFoundError, match='does not exist'):
    tokenizer.file(path=str(tmp_path / 'nowhere.json'))
  for wrong in ('not json', '{"a": 1}', '[]'):
    (tmp_path / 'bad.json').write_text(wrong)
    with pytest.raises(ValueError, match=r"bad.json' is not a tokenizer.json"):
      tokenizer.file(path=str(tmp_path / 'bad.json'))


def test_contexts_to_ids():
  """Texts are encoded by the turn's template, what was said comes back as its ids, whatever they spell."""
  told = []
  tok = TOK._replace(turn=lambda obs, first: told.append((obs, first)) or TOK.encode(obs))
  odd = list(TOK.encode('n') + TOK.encode('ame'))                  # never what `encode` would give
  ids = tokenizer.render(['select', Said(1), ' from', Said(0)], [[7], odd], tok)
  assert ids == [*TOK.encode('select'), *odd, *TOK.encode(' from'), 7] and isinstance(ids, list)
  assert told == [('select', True), (' from', False)]
  assert tokenizer.render([], [], tok) == []
