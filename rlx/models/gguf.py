"""Models in GGUF files: weights dequantised one tensor at a time, config and tokenizer from the metadata.

Names and layouts as in ggml-org/llama.cpp `gguf-py/gguf/constants.py` and `convert_hf_to_gguf.py`. Llama files hold the rows of q and
k in the order of interleaved rotary pairs (`LlamaModel.permute` there), which is undone here; qwen2 and qwen3 files do not.
"""

from collections.abc import Mapping
import functools
import math
import os
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from rlx.models import hf

# their name -> Hugging Face's; {} is the layer
NAMES = {
    'token_embd': 'model.embed_tokens', 'output_norm': 'model.norm', 'output': 'lm_head',
    'attn_norm': 'input_layernorm', 'ffn_norm': 'post_attention_layernorm',
    'attn_q': 'self_attn.q_proj', 'attn_k': 'self_attn.k_proj', 'attn_v': 'self_attn.v_proj', 'attn_output': 'self_attn.o_proj',
    'attn_q_norm': 'self_attn.q_norm', 'attn_k_norm': 'self_attn.k_norm',
    'ffn_gate': 'mlp.gate_proj', 'ffn_up': 'mlp.up_proj', 'ffn_down': 'mlp.down_proj',
}
FREQUENCIES = 'rope_freqs.weight'    # Llama 3's scaling, as a factor of each rotary pair
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5   # kinds of tokens

# How text is cut before merges, by the file's word for it: Split patterns of the models' own tokenizer.json
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r'\p{N}{1,3}', r'\p{N}')
CUTS = {'smollm': None, 'qwen2': QWEN2, 'llama-bpe': LLAMA3}


@functools.lru_cache(maxsize=2)
def _reader(path, stamp):
  """The file, mapped; reading its metadata takes seconds, so it is kept."""
  del stamp
  try:
    import gguf
  except ImportError as e:
    raise ValueError("GGUF files are read with the gguf package: pip install 'rlx[models]'.") from e
  try:
    return gguf.GGUFReader(path)
  except Exception as e:      # a foreign parser of a foreign file
    raise ValueError(f"'{path}' is not a whole GGUF file: {e}") from e


def _opened(path):
  if not os.path.isfile(path):
    raise FileNotFoundError(f"GGUF file '{path}' does not exist.")
  stat = os.stat(path)
  reader = _reader(os.path.abspath(path), (stat.st_mtime_ns, stat.st_size))
  return reader, lambda key, default=None: reader.fields[key].contents() if key in reader.fields else default


def source(path: str) -> hf.Source:
  """The weights and config of a GGUF file, under the names they have in the Hugging Face layout.

  Raises:
    FileNotFoundError: no such file.
    ValueError: not a GGUF file, another architecture, or something of it that the policy does not compute.
  """
  reader, field = _opened(path)
  by_name = {t.name: t for t in reader.tensors}
  config = _config(field, by_name)
  named = {}
  for name, t in by_name.items():
    stem, _, kind = name.rpartition('.')
    parts = stem.split('.')
    layer, stem = (f'model.layers.{parts[1]}.', '.'.join(parts[2:])) if parts[0] == 'blk' else ('', stem)
    if name != FREQUENCIES:
      named[f'{layer}{NAMES[stem]}.{kind}' if stem in NAMES else name] = t
  turned = {'q_proj': config['num_attention_heads'], 'k_proj': config['num_key_value_heads']} if config['model_type'] == 'llama' else {}

  def read(name, index):
    from gguf import quants
    t = named[name]
    heads = turned.get(name.split('.')[-2])
    rows, rest = (slice(None), index) if heads else (index[0], (slice(None), *index[1:]))      # a row is quantised by itself
    x = quants.dequantize(t.data.reshape(_shape(t)[0], -1)[rows], t.tensor_type).reshape(-1, *_shape(t)[1:])
    if heads:      # rows 0 1 2 3 .. of a head are pairs (0, Dh/2), (1, Dh/2 + 1) ..
      x = x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)
    return x[rest]
  return hf.Source(config, {n: _shape(t) for n, t in named.items()}, read)


def _shape(tensor):
  return tuple(int(n) for n in reversed(tensor.shape))


def _short(x):
  """A float32 as the shortest decimal that is it: 1e-5, not 9.99999974e-6."""
  return float(str(np.float32(x)))


def _config(field, by_name):
  """config.json from the metadata."""
  kind = field('general.architecture')
  if kind not in hf.FAMILIES:
    raise ValueError(f"the GGUF file is of architecture '{kind}'; there are {', '.join(sorted(hf.FAMILIES))}.")
  if field('split.count', 0) > 1:
    raise ValueError('the GGUF file is one of several parts: join them with `llama-gguf-split --merge` first.')

  def of(key, default=None):
    value = field(f'{kind}.{key}', default)
    if value is None:
      raise ValueError(f"the GGUF file lacks the key '{kind}.{key}'.")
    if isinstance(value, list):
      raise ValueError(f"'{kind}.{key}' differs from layer to layer, which is not computed here.")
    return value
  for key in ('expert_count', 'attention.sliding_window'):
    if field(f'{kind}.{key}'):
      raise ValueError(f"this {kind} model has {key} {field(f'{kind}.{key}')}, which is not computed here.")
  dim, heads = of('embedding_length'), of('attention.head_count')
  head_dim = of('attention.key_length', dim // heads)
  if of('rope.dimension_count', head_dim) != head_dim:
    raise ValueError('this model rotates a part of each head only (rope.dimension_count), which is not computed here.')
  base, biased = _short(of('rope.freq_base', 10000.)), kind == 'llama' and 'blk.0.attn_q.bias' in by_name
  config = dict(
      architectures=[hf.FAMILIES[kind]], model_type=kind, vocab_size=int(by_name['token_embd.weight'].shape[1]), hidden_size=dim,
      intermediate_size=of('feed_forward_length'), num_hidden_layers=of('block_count'), num_attention_heads=heads,
      num_key_value_heads=of('attention.head_count_kv', heads), head_dim=head_dim, hidden_act='silu',
      max_position_embeddings=of('context_length', 32768), rms_norm_eps=_short(of('attention.layer_norm_rms_epsilon')), rope_theta=base,
      rope_scaling=_scaling(field, kind, base, head_dim, by_name), tie_word_embeddings='output.weight' not in by_name,
      attention_bias=biased)
  for name in ('bos', 'eos', 'padding'):
    config['pad_token_id' if name == 'padding' else f'{name}_token_id'] = field(f'tokenizer.ggml.{name}_token_id')
  return config


def _scaling(field, kind, base, head_dim, by_name):
  """`rope_scaling` of a config.json. Llama 3's is stored as its result alone, and is recognised by it."""
  if FREQUENCIES in by_name:
    factors = np.asarray(by_name[FREQUENCIES].data, np.float64).reshape(-1)
    low, high, trained = 1., 4., 8192      # of all Llama 3 models
    wave = 2 * math.pi * base ** (np.arange(0, head_dim, 2) / head_dim)
    factor = _short(factors.max())
    blend = np.clip((trained / wave - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / (blend + (1 - blend) / factor), rtol=1e-4):
      raise ValueError(f"{FREQUENCIES} of the GGUF file is none of Llama 3's rope scalings: convert the model from its Hugging Face folder.")
    return dict(rope_type='llama3', factor=factor, low_freq_factor=low, high_freq_factor=high, original_max_position_embeddings=trained)
  name = field(f'{kind}.rope.scaling.type', 'none')
  return None if name == 'none' else dict(rope_type=name, factor=_short(field(f'{kind}.rope.scaling.factor', 1.)))


# ---- tokenizer -------------------------------------------------------------------------------------------------------

def tokenizer_files(path: str) -> dict[str, Any]:
  """The tokenizer of a GGUF file as dict(tokenizer: text of a tokenizer.json, config: tokenizer_config.json, template: text or None,
  generation: None).

  Byte-level vocabularies, cut as the model's own tokenizer.json cuts: 'smollm' (every digit alone, then GPT-2's pattern), 'qwen2'
  (NFC, Qwen's pattern), 'llama-bpe' (Llama 3's pattern). Control and user-defined tokens are never split; the first are special.

  Raises:
    FileNotFoundError: no such file.
    ValueError: another kind of vocabulary.
  """
  _, field = _opened(path)
  kind, cut = field('tokenizer.ggml.model'), field('tokenizer.ggml.pre')
  if kind != 'gpt2' or cut not in CUTS:
    raise ValueError(f"the GGUF file has a tokenizer of kind '{kind}' cut by '{cut}'; there are byte-level ones (gpt2) cut by "
                     f"{', '.join(sorted(CUTS))}: take the model's Hugging Face folder.")
  tokens, kinds = field('tokenizer.ggml.tokens'), field('tokenizer.ggml.token_type')
  size = max(i for i, k in enumerate(kinds) if k != UNUSED) + 1      # the rest fills the embedding up, and is no token
  merges = [tuple(m.split(' ')) for m in field('tokenizer.ggml.merges')]
  added = [(t, k) for t, k in zip(tokens[:size], kinds) if k in (CONTROL, USER_DEFINED)]
  inner = tokenizers.Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens[:size])}, merges=merges, ignore_merges=cut == 'llama-bpe'))
  if cut == 'qwen2':
    inner.normalizer = normalizers.NFC()
  if CUTS[cut] is None:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
  else:
    steps = [pre_tokenizers.Split(Regex(CUTS[cut]), 'isolated'), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
  inner.pre_tokenizer = pre_tokenizers.Sequence(steps)
  inner.decoder = decoders.ByteLevel()
  inner.add_tokens([AddedToken(t, normalized=False, special=k == CONTROL) for t, k in added])
  config = _tokenizer_config(field, tokens, added)
  if config['add_bos_token'] and 'bos_token' in config:
    bos = config['bos_token']
    inner.post_processor = processors.TemplateProcessing(single=f'{bos} $A', special_tokens=[(bos, tokens.index(bos))])
  template = field('tokenizer.chat_template')
  return dict(tokenizer=inner.to_str(), config=config, template=template, generation=None)


def _tokenizer_config(field, tokens, added) -> Mapping[str, Any]:
  """tokenizer_config.json from the metadata."""
  place = {t: i for i, t in enumerate(tokens)}
  out = dict(tokenizer_class='PreTrainedTokenizerFast', clean_up_tokenization_spaces=False,
             model_max_length=field(f"{field('general.architecture')}.context_length", 32768),
             add_bos_token=bool(field('tokenizer.ggml.add_bos_token', field('tokenizer.ggml.pre') == 'llama-bpe')))
  for ours, theirs in dict(bos='bos', eos='eos', pad='padding', unk='unknown').items():
    at = field(f'tokenizer.ggml.{theirs}_token_id')
    if at is not None:
      out[f'{ours}_token'] = tokens[at]
  out['added_tokens_decoder'] = {
      str(place[t]): dict(content=t, lstrip=False, normalized=False, rstrip=False, single_word=False, special=k == CONTROL) for t, k in added}
  return out
