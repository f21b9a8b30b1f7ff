"""Small GGUF files made with the gguf package's writer, as llama.cpp's converter lays them out."""

import numpy as np
import pytest

from rlx.models import hf

gguf = pytest.importorskip('gguf', reason="GGUF files need pip install 'rlx[models]'")

THEIRS = {
    'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight', 'lm_head.weight': 'output.weight',
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output', 'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm',
    'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down'}


def permuted(x, heads):
  """llama.cpp's `LlamaModel.permute`: rows (half, i) of a head become rows (i, half)."""
  return x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape)


def write(path, folder, *, kind='F32', vocabulary=None, keys=(), factors=None):
  """A model folder as a GGUF file; `vocabulary`: dict(tokens, types, merges, pre, template)."""
  source = hf.source(str(folder))
  c = source.config
  w = gguf.GGUFWriter(str(path), c['model_type'])
  rope = c.get('rope_parameters') or c
  w.add_block_count(c['num_hidden_layers'])
  w.add_context_length(c['max_position_embeddings'])
  w.add_embedding_length(c['hidden_size'])
  w.add_feed_forward_length(c['intermediate_size'])
  w.add_head_count(c['num_attention_heads'])
  w.add_head_count_kv(c['num_key_value_heads'])
  w.add_key_length(hf.keywords(c)['head_dim'])
  w.add_rope_freq_base(rope['rope_theta'])
  w.add_layer_norm_rms_eps(c['rms_norm_eps'])
  for name, value in keys:
    {str: w.add_string, int: w.add_uint32, float: w.add_float32}[type(value)](name, value)
  if vocabulary:
    w.add_tokenizer_model(vocabulary.get('model', 'gpt2'))
    w.add_tokenizer_pre(vocabulary['pre'])
    w.add_token_list(vocabulary['tokens'])
    w.add_token_types(vocabulary['types'])
    w.add_token_merges(vocabulary['merges'])
    w.add_eos_token_id(vocabulary['types'].index(3))
    if 'template' in vocabulary:
      w.add_chat_template(vocabulary['template'])
  if factors is not None:
    w.add_tensor('rope_freqs.weight', np.asarray(factors, np.float32))
  for name, shape in source.shapes.items():
    x = np.asarray(source.read(name, tuple(slice(0, n) for n in shape)), np.float32)
    for part, heads in (('q_proj', 'num_attention_heads'), ('k_proj', 'num_key_value_heads')):
      if part in name and c['model_type'] == 'llama':
        x = permuted(x, c[heads])
    theirs = THEIRS.get(name)
    if theirs is None:
      _, _, layer, stem = name.split('.', 3)
      stem, _, last = stem.rpartition('.')
      theirs = f'blk.{layer}.{THEIRS[stem]}.{last}'
    if kind == 'F32' or x.ndim == 1:
      w.add_tensor(theirs, x)
    else:
      code = gguf.GGMLQuantizationType[kind]
      w.add_tensor(theirs, gguf.quants.quantize(x, code), raw_dtype=code)
  w.write_header_to_file()
  w.write_kv_data_to_file()
  w.write_tensors_to_file()
  w.close()
  return str(path)
