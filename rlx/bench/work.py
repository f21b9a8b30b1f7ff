"""The fixed work every side does: a model as a Hugging Face directory, prompts, completions and advantages, as one JSON file."""

import json
import os
import re
from typing import NamedTuple

import numpy as np
from safetensors.numpy import save_file
import tokenizers

from rlx import compilation
from rlx.grow import tokenizer
from rlx.models import pretrained

WORKS = ('sample', 'score', 'update', 'step')


class Size(NamedTuple):
  """How much work: `prompts` x `samples` rows of `prompt` + `new` tokens."""
  prompts: int = 4
  samples: int = 8
  prompt: int = 64
  new: int = 64

  @property
  def rows(self) -> int:
    return self.prompts * self.samples


class Shape(NamedTuple):
  """Sizes of a random model."""
  layers: int
  dim: int
  heads: int
  kv_heads: int
  ff: int
  vocab: int


A = Shape(layers=4, dim=256, heads=4, kv_heads=2, ff=1024, vocab=4096)


def tokens(work: str, size: Size) -> tuple[int, str]:
  """(how many tokens a repetition of a work counts, what they are)."""
  if work in ('sample', 'step'):
    return size.rows * size.new, 'new tokens'
  return size.rows * (size.prompt + size.new), 'tokens read'


def model(name: str) -> str:
  """The directory of a model: 'A' is made where it is not yet, 'B' is SmolLM2-135M, anything else a path.

  Raises:
    ValueError: there is no such model.
  """
  if name == 'A':
    path = os.path.join(compilation.cache_folder(), 'bench', 'A')
    if not os.path.isfile(os.path.join(path, 'config.json')):
      random_llama(path, A)
    return path
  try:
    path = pretrained.located('smollm2' if name == 'B' else os.path.expanduser(name))
  except FileNotFoundError as e:
    raise ValueError(str(e)) from e
  if not os.path.isfile(os.path.join(path, 'config.json')):
    raise ValueError(f"--model is A, B or a Hugging Face directory; '{name}' holds no config.json.")
  return os.path.abspath(path)


def random_llama(path: str, shape: Shape, seed: int = 0) -> None:
  """Writes a Llama with normal weights of deviation 0.02 and a tokenizer whose ids are words 'w4', 'w5' ...

  The config is written last, so a directory that has one is whole.
  """
  os.makedirs(path, exist_ok=True)
  draw, head = np.random.RandomState(seed), shape.dim // shape.heads
  normal = lambda *size: (draw.standard_normal(size) * 0.02).astype(np.float32)
  ones = np.ones(shape.dim, np.float32)
  weights = {'model.embed_tokens.weight': normal(shape.vocab, shape.dim), 'model.norm.weight': ones}
  outer = shape.kv_heads * head
  for i in range(shape.layers):
    at = f'model.layers.{i}.'
    for name, size in dict(q=shape.dim, k=outer, v=outer, o=shape.dim).items():
      weights[f'{at}self_attn.{name}_proj.weight'] = normal(size, shape.dim)
    for name in ('gate', 'up'):
      weights[f'{at}mlp.{name}_proj.weight'] = normal(shape.ff, shape.dim)
    weights[f'{at}mlp.down_proj.weight'] = normal(shape.dim, shape.ff)
    weights |= {f'{at}input_layernorm.weight': ones, f'{at}post_attention_layernorm.weight': ones}
  save_file(weights, os.path.join(path, 'model.safetensors'), metadata=dict(format='pt'))
  special = ('<pad>', '<s>', '</s>', '<unk>')
  words = {**{s: i for i, s in enumerate(special)}, **{f'w{i}': i for i in range(len(special), shape.vocab)}}
  inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token='<unk>'))
  inner.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  inner.add_special_tokens(list(special))
  inner.save(os.path.join(path, 'tokenizer.json'))
  _write(path, 'tokenizer_config.json', dict(
      tokenizer_class='PreTrainedTokenizerFast', pad_token='<pad>', bos_token='<s>', eos_token='</s>', unk_token='<unk>'))
  _write(path, 'config.json', dict(
      architectures=['LlamaForCausalLM'], model_type='llama', vocab_size=shape.vocab, hidden_size=shape.dim,
      intermediate_size=shape.ff, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
      num_key_value_heads=shape.kv_heads, head_dim=head, hidden_act='silu', max_position_embeddings=1024, rms_norm_eps=1e-5,
      rope_theta=10000., tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0, torch_dtype='float32'))


def _write(folder, name, value):
  part = os.path.join(folder, name + '.part')
  with open(part, 'w', encoding='utf-8') as f:
    json.dump(value, f, indent=1)
  os.replace(part, os.path.join(folder, name))


def job(work: str, path: str, *, size: Size, dtype: str = 'float32', microbatch: int | None = None, seed: int = 0) -> dict:
  """The work as plain values, the same for every side; only `microbatch` may differ between them.

  Prompts are words of one token each, and so is every completion, so their texts are encoded to exactly these ids.

  Raises:
    ValueError: a tokenizer of which no such words can be found.
  """
  tok = tokenizer.file(path=os.path.join(path, 'tokenizer.json'))
  texts = tok.decode_batch([[i] for i in range(tok.size)])
  words = [i for i, text in enumerate(texts) if re.fullmatch(r' [a-z]{3,}|w\d+', text)]
  draw, prompts = np.random.RandomState(seed), []
  for _ in range(1000):
    ids = draw.choice(words, size.prompt).tolist() if words else []
    if ids and tok.encode(tok.decode(ids)) == tuple(ids) and tok.encode(tok.decode(ids[:-1])) == tuple(ids[:-1]):
      prompts.append(ids)
    if len(prompts) == size.prompts:
      break
  else:
    raise ValueError(f"the tokenizer of '{path}' has too few words that are one token each: no prompts can be made of it.")
  paid = draw.rand(size.prompts, size.samples)
  advantages = (paid - paid.mean(1, keepdims=True)) / (paid.std(1, ddof=1, keepdims=True) + 1e-4)
  return dict(
      work=work, model=path, dtype=dtype, microbatch=microbatch, samples=size.samples, new=size.new, prompts=prompts,
      texts=[tok.decode(ids) for ids in prompts], shorter=[tok.decode(ids[:-1]) for ids in prompts],
      completions=draw.choice(words, (size.rows, size.new)).tolist(), advantages=advantages.ravel().tolist(), seed=seed)
