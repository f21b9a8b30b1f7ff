"""GGUF files: the same weights and config as the folder they were made from, tokenizers from metadata, clear refusals."""

import json
import os
import unicodedata

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from rlx import fetch
from rlx.learn import mesh as meshes
from rlx.models import gguf, hf
from rlx.models.pretrained import pretrained, tokenizer_files
from tests.models import gguf_files

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'golden')
TEXTS = ('select name from singer where id = 12345', "I'm sure it's 42, isn't it?", 'tabs\tand\n\nlines', 'naïve café 東京 🙂🙂', 'a  b   c')


def folder(name):
  return os.path.join(GOLDEN, 'models', name)


def loaded(path):
  policy = pretrained(path=path)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return policy, policy.load(meshes.shard_params(shapes, (), meshes.create(devices=jax.devices()[:1])))


@pytest.mark.parametrize('name', ['smollm2', 'qwen2', 'qwen3', 'qwen3_untied', 'linear'])
def test_a_file_says_what_the_folder_says(name, tmp_path):
  keys = (('llama.rope.scaling.type', 'linear'), ('llama.rope.scaling.factor', 4.)) if name == 'linear' else ()
  file = gguf_files.write(tmp_path / 'm.gguf', folder(name), keys=keys)
  (theirs, a), (ours, b) = loaded(folder(name)), loaded(file)
  assert ours.config == theirs.config
  jax.tree.map(np.testing.assert_array_equal, b, a)


def test_llama_3s_scaling_is_recognised_by_its_factors(tmp_path):
  wave = 2 * np.pi * 500000. ** (np.arange(0, 8, 2) / 8)
  blend = np.clip((8192 / wave - 1) / 3, 0, 1)
  file = gguf_files.write(tmp_path / 'm.gguf', folder('llama3'), factors=1 / (blend + (1 - blend) / 32))
  assert dict(pretrained(path=file).config.rope_scaling) == dict(
      rope_type='llama3', factor=32., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=8192)
  other = gguf_files.write(tmp_path / 'o.gguf', folder('llama3'), factors=[1, 1, 3, 8])
  with pytest.raises(ValueError, match="none of Llama 3's rope scalings"):
    pretrained(path=other)


def test_quantised_weights_are_near_and_are_read_block_by_block(tmp_path):
  file = gguf_files.write(tmp_path / 'm.gguf', folder('smollm2'), kind='Q8_0')
  _, a = loaded(folder('smollm2'))
  policy, b = loaded(file)
  off = jax.tree.map(lambda x, y: float(np.abs(x - y).max() / np.abs(x).max()), a, b)
  assert 0 < max(jax.tree.leaves(off)) < .01
  where = meshes.shard_params(jax.eval_shape(policy.init, jax.random.key(0)), (('.*', 'fsdp'),), meshes.create(fsdp=4))
  jax.tree.map(np.testing.assert_array_equal, policy.load(where), b)


# ---- tokenizers ------------------------------------------------------------------------------------------------------

def vocabulary(pre, size=64, normalise=lambda x: x, **more):
  """A byte-level vocabulary learnt here, cut by the pattern of `pre` as it stands in the model's own tokenizer.json."""
  patterns = dict(
      qwen2=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
      **{'llama-bpe': r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"})
  inner = tokenizers.Tokenizer(models.BPE())
  first = (pre_tokenizers.Digits(individual_digits=True) if pre == 'smollm' else
           pre_tokenizers.Split(tokenizers.Regex(patterns[pre]), 'isolated'))
  inner.pre_tokenizer = pre_tokenizers.Sequence([first, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre == 'smollm')])
  inner.decoder = decoders.ByteLevel()
  inner.train_from_iterator([normalise(t) for t in TEXTS] * 2, trainers.BpeTrainer(
      vocab_size=256 + size, special_tokens=['<|end|>'], show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
  model = json.loads(inner.to_str())['model']
  tokens = sorted(model['vocab'], key=model['vocab'].get)
  inner.add_tokens([AddedToken('<tool>', normalized=False, special=False)])
  types = [3] + [1] * (len(tokens) - 1) + [4, 5, 5]
  return inner, dict(tokens=[*tokens, '<tool>', '[PAD1]', '[PAD2]'], types=types, merges=[' '.join(m) for m in model['merges']], pre=pre, **more)


@pytest.mark.parametrize('pre', ['smollm', 'qwen2', 'llama-bpe'])
def test_a_tokenizer_made_from_metadata_is_the_one_it_was_made_from(pre, tmp_path):
  inner, words = vocabulary(pre, template='{{ messages }}', normalise=lambda x: unicodedata.normalize('NFC', x))
  files = tokenizer_files(gguf_files.write(tmp_path / 'm.gguf', folder('qwen2'), vocabulary=words))
  made = tokenizers.Tokenizer.from_str(files['tokenizer'])
  for text in (*TEXTS, '<|end|>x<tool> 12 3', '  42', '1234567'):
    assert made.encode(text, add_special_tokens=False).ids == inner.encode(text, add_special_tokens=False).ids, text
    assert made.decode(made.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text
  assert made.get_vocab_size() == len(words['tokens']) - 2      # what only fills the embedding up is no token
  assert {i: t.special for i, t in made.get_added_tokens_decoder().items()} == {0: True, len(words['tokens']) - 3: False}
  assert files['template'] == '{{ messages }}'
  assert files['config']['eos_token'] == '<|end|>'
  assert ('1234567' in [made.id_to_token(i) for i in made.encode('1234567').ids]) is False
  decomposed = unicodedata.normalize('NFD', 'naïve café')
  assert (made.encode(decomposed).ids == made.encode('naïve café').ids) is (pre == 'qwen2')


@pytest.mark.parametrize(('changes', 'said'), [
    (dict(model='llama', pre='default'), "tokenizer of kind 'llama' cut by 'default'"),
    (dict(pre='gpt-4o'), "cut by 'gpt-4o'; there are byte-level ones"),
])
def test_other_tokenizers_are_refused(changes, said, tmp_path):
  _, words = vocabulary('qwen2')
  with pytest.raises(ValueError, match=said):
    tokenizer_files(gguf_files.write(tmp_path / 'm.gguf', folder('qwen2'), vocabulary={**words, **changes}))


@pytest.mark.parametrize(('name', 'keys', 'said'), [
    ('qwen2', (('qwen2.rope.scaling.type', 'yarn'), ('qwen2.rope.scaling.factor', 4.)), "rope scaling 'yarn'"),
    ('smollm2', (('llama.expert_count', 8),), 'expert_count 8'),
    ('qwen2', (('qwen2.attention.sliding_window', 128),), 'sliding_window 128'),
    ('smollm2', (('llama.rope.dimension_count', 4),), 'rotates a part of each head'),
    ('smollm2', (('split.count', 2),), 'one of several parts'),
])
def test_what_is_not_computed_is_refused(name, keys, said, tmp_path):
  with pytest.raises(ValueError, match=said):
    pretrained(path=gguf_files.write(tmp_path / 'm.gguf', folder(name), keys=keys))


def test_files_that_are_none(tmp_path):
  (tmp_path / 'm.gguf').write_bytes(b'GGUF?')
  with pytest.raises(ValueError, match='is not a whole GGUF file'):
    pretrained(path=str(tmp_path / 'm.gguf'))
  with pytest.raises(FileNotFoundError, match="GGUF file '.*n.gguf' does not exist"):
    gguf.source(str(tmp_path / 'n.gguf'))
  w = gguf_files.gguf.GGUFWriter(str(tmp_path / 'p.gguf'), 'phi3')
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  with pytest.raises(ValueError, match="architecture 'phi3'; there are llama, qwen2, qwen3"):
    gguf.source(str(tmp_path / 'p.gguf'))


@pytest.mark.parametrize('name', ['smollm2', 'qwen2.5-coder-0.5b'])
def test_ids_of_the_real_models_are_those_of_transformers(name):
  """The texts are where transformers' reading of GGUF metadata is the model's own tokenizer.json; where it is not (it cuts SmolLM2's
  digits not one by one, and leaves Qwen's text without NFC), the second test below types what that file asks for."""
  if not os.path.isdir(fetch.folder(name)):
    pytest.skip(f'{name} is not there: python -m rlx.fetch {name}')
  made = tokenizers.Tokenizer.from_str(hf.tokenizer_files(fetch.folder(name))['tokenizer'])
  with open(os.path.join(GOLDEN, 'answers.json'), encoding='utf-8') as f:
    golden = json.load(f)[name]['tokens']
  assert len(golden) > 20
  for text, ids in golden:
    assert made.encode(text, add_special_tokens=False).ids == ids, text


def test_where_the_models_own_tokenizer_differs_from_transformers_reading():
  if not all(os.path.isdir(fetch.folder(n)) for n in ('smollm2', 'qwen2.5-coder-0.5b')):
    pytest.skip('python -m rlx.fetch smollm2, and qwen2.5-coder-0.5b')
  smol, qwen = (tokenizers.Tokenizer.from_str(hf.tokenizer_files(fetch.folder(n))['tokenizer']) for n in ('smollm2', 'qwen2.5-coder-0.5b'))
  assert smol.encode('  42').tokens == ['ĠĠ', '4', '2']      # a digit takes no space from before it
  assert qwen.encode(unicodedata.normalize('NFD', 'café')).ids == qwen.encode('café').ids
