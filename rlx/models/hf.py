"""Models in the Hugging Face layout: `config.json` to keywords, tensors to parameters, and both ways back.

Families: Llama 3.x and SmolLM2 (`llama`), Qwen2 and Qwen2.5 (`qwen2`), dense Qwen3 (`qwen3`). Names and conventions as in
huggingface/transformers `models/{llama,qwen2,qwen3}/modeling_*.py`: a linear layer's weight is `[out, in]` there, a kernel
`[in, out]` here, and layers are stacked.
"""

from collections.abc import Callable, Mapping
import json
import math
import os
import shutil
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import numpy as np

from rlx.models import lora, tensors

FAMILIES = dict(llama='LlamaForCausalLM', qwen2='Qwen2ForCausalLM', qwen3='Qwen3ForCausalLM')

# our path -> their name; {} is the layer
NAMES = {
    'embed/table': 'model.embed_tokens.weight',
    'norm/scale': 'model.norm.weight',
    'head/kernel': 'lm_head.weight',
    'layers/attention_norm/scale': 'model.layers.{}.input_layernorm.weight',
    'layers/attention/q/kernel': 'model.layers.{}.self_attn.q_proj.weight',
    'layers/attention/q/bias': 'model.layers.{}.self_attn.q_proj.bias',
    'layers/attention/k/kernel': 'model.layers.{}.self_attn.k_proj.weight',
    'layers/attention/k/bias': 'model.layers.{}.self_attn.k_proj.bias',
    'layers/attention/v/kernel': 'model.layers.{}.self_attn.v_proj.weight',
    'layers/attention/v/bias': 'model.layers.{}.self_attn.v_proj.bias',
    'layers/attention/o/kernel': 'model.layers.{}.self_attn.o_proj.weight',
    'layers/attention/q_norm/scale': 'model.layers.{}.self_attn.q_norm.weight',
    'layers/attention/k_norm/scale': 'model.layers.{}.self_attn.k_norm.weight',
    'layers/mlp_norm/scale': 'model.layers.{}.post_attention_layernorm.weight',
    'layers/mlp/gate/kernel': 'model.layers.{}.mlp.gate_proj.weight',
    'layers/mlp/up/kernel': 'model.layers.{}.mlp.up_proj.weight',
    'layers/mlp/down/kernel': 'model.layers.{}.mlp.down_proj.weight',
}
STACKS = ('layers', 'lower')
PIECE = 1 << 26   # bytes of a tensor that are read at once
PASSED = ('rotary_emb.inv_freq', 'rotary_emb.cos_cached', 'rotary_emb.sin_cached')   # buffers of old files, computed anew


class Source(NamedTuple):
  """Weights to be read: `config` as in a config.json, the shape of each tensor, `read(name, index) -> np.ndarray`."""
  config: Mapping[str, Any]
  shapes: Mapping[str, tuple[int, ...]]
  read: Callable[[str, tuple[slice, ...]], np.ndarray]


def source(folder: str) -> Source:
  """A folder with config.json and safetensors, single or sharded.

  Raises:
    ValueError: no config.json, or no safetensors.
  """
  config = _json(folder, 'config.json')
  if config is None:
    raise ValueError(f"'{folder}' holds no model: there is no config.json.")
  found = tensors.stored(folder)
  return Source(config, {k: v.shape for k, v in found.items()}, lambda name, index: tensors.read(name, found[name], index))


def _json(folder, name):
  path = os.path.join(folder, name)
  if not os.path.isfile(path):
    return None
  with open(path, encoding='utf-8') as f:
    try:
      return json.load(f)
    except ValueError as e:
      raise ValueError(f"'{path}' is not JSON: {e}") from e


# ---- config.json ---------------------------------------------------------------------------------------------------

def keywords(config: Mapping[str, Any]) -> dict[str, Any]:
  """The keywords of `transformer(...)` that a config.json asks for; what is left out there has transformers' default.

  Raises:
    ValueError: another family, or something of this family that the policy does not compute.
  """
  kind = config.get('model_type')
  if kind not in FAMILIES:
    raise ValueError(f"model_type {kind!r} is not one of {', '.join(sorted(FAMILIES))}.")

  def refuse(what):
    raise ValueError(f'this {kind} model has {what}, which is not computed here.')
  if missing := [k for k in ('vocab_size', 'hidden_size', 'intermediate_size', 'num_hidden_layers', 'num_attention_heads') if k not in config]:
    raise ValueError(f"config.json lacks {missing[0]}.")
  if config.get('quantization_config'):
    raise ValueError('the weights are quantised (quantization_config): take the unquantised model, or its GGUF file.')
  if config.get('hidden_act', 'silu') != 'silu':
    refuse(f"hidden_act {config['hidden_act']!r}")
  if config.get('use_sliding_window') or set(config.get('layer_types') or ()) - {'full_attention'}:
    refuse('sliding-window attention')
  if config.get('attention_bias') or config.get('mlp_bias'):
    refuse('attention_bias or mlp_bias (biases on the output of attention or the hidden units)')
  if config.get('partial_rotary_factor', 1) != 1:
    refuse('partial_rotary_factor')
  heads = config['num_attention_heads']
  head_dim = config.get('head_dim') or (128 if kind == 'qwen3' else config['hidden_size'] // heads)
  base, scaling = _rope(config)
  return dict(
      vocab=config['vocab_size'], layers=config['num_hidden_layers'], dim=config['hidden_size'], heads=heads,
      kv_heads=config.get('num_key_value_heads') or heads, head_dim=head_dim, ff=config['intermediate_size'],
      rope_base=base, rope_scaling=scaling, norm_eps=config.get('rms_norm_eps', 1e-6),
      tied=bool(config.get('tie_word_embeddings', False)), qkv_bias=kind == 'qwen2', qk_norm=kind == 'qwen3')


def _rope(config):
  """(base, scaling) from `rope_theta` and `rope_scaling`, or from `rope_parameters` of transformers 5."""
  given = config.get('rope_parameters') or config.get('rope_scaling') or {}
  base = given.get('rope_theta', config.get('rope_theta')) or 10000.
  kind = given.get('rope_type', given.get('type', 'default'))
  wanted = dict(default=(), linear=('factor',),
                llama3=('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings')).get(kind)
  if wanted is None:
    raise ValueError(f"rope scaling {kind!r} is not one of default, linear, llama3: without it the model is good for the contexts it "
                     'was trained on; take rope_scaling (rope_parameters) out of config.json if those are enough.')
  if given.get('partial_rotary_factor', 1) != 1:
    raise ValueError('this model rotates a part of each head only (partial_rotary_factor), which is not computed here.')
  if missing := [k for k in wanted if k not in given]:
    raise ValueError(f'rope scaling {kind!r} of config.json lacks {missing[0]}.')
  return float(base), {'rope_type': kind, **{k: given[k] for k in wanted}} if wanted else None


def config_of(policy_config: Any, like: Mapping[str, Any] | None = None, *, dtype: str = 'float32', positions: int = 32768) -> dict[str, Any]:
  """A config.json for a policy; `like` is the one it was loaded with, which keeps what the policy does not know.

  Raises:
    ValueError: a policy that none of the families computes.
  """
  c = policy_config
  kind = 'qwen3' if c.qk_norm else 'qwen2' if c.qkv_bias else 'llama'
  for odd, what in ((c.activation != 'swiglu', f'activation {c.activation!r}'), (c.embed_scale, 'embed_scale'),
                    (c.qk_norm and c.qkv_bias, 'qk_norm and qkv_bias together')):
    if odd:
      raise ValueError(f"no family of {', '.join(sorted(FAMILIES))} has {what}: this policy cannot be saved in the Hugging Face layout.")
  out = dict(like or dict(max_position_embeddings=positions, bos_token_id=None, eos_token_id=None))
  for stale in ('torch_dtype', 'rope_parameters', 'transformers_version', '_name_or_path'):
    out.pop(stale, None)
  return out | dict(
      architectures=[FAMILIES[kind]], model_type=kind, vocab_size=c.vocab, hidden_size=c.dim, intermediate_size=c.ff,
      num_hidden_layers=c.layers, num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim,
      hidden_act='silu', rms_norm_eps=c.norm_eps, rope_theta=c.rope_base, rope_scaling=dict(c.rope_scaling) if c.rope_scaling else None,
      tie_word_embeddings=c.tied, attention_bias=False, use_cache=True, dtype=dtype, torch_dtype=dtype)


# ---- parameters ------------------------------------------------------------------------------------------------------

def places(shapes: Any) -> dict[tuple, tuple[tuple[str, ...], tuple[int, ...]]]:
  """path -> (their names, one for a layer, and the shape each has there), for all leaves of a tree that have a name there.

  Layers in two stacks, 'lower' and 'layers', are counted through.
  """
  out, flat = {}, traverse_util.flatten_dict(shapes)
  lower = next((x.shape[0] for path, x in flat.items() if path[0] == 'lower'), 0)
  for path, x in flat.items():
    stacked = path[0] in STACKS
    name = NAMES.get('/'.join(('layers', *path[1:]) if stacked else path))
    if name is None:
      continue
    first, shape = lower if path[0] == 'layers' else 0, x.shape[1:] if stacked else x.shape
    names = tuple(name.format(first + i) for i in range(x.shape[0])) if stacked else (name,)
    out[path] = names, shape[::-1] if path[-1] == 'kernel' else shape
  return out


def verify(source: Source, shapes: Any) -> None:
  """The files must hold what the policy reads, in its shapes, and nothing that it would leave out.

  Raises:
    ValueError: a tensor that is missing, unknown, or of another shape.
  """
  wanted = {name: shape for names, shape in places(shapes).values() for name in names}
  if missing := set(wanted) - set(source.shapes):
    raise ValueError(f'the weights lack {tensors.listed(missing)}, which config.json asks for.')
  for name, shape in wanted.items():
    if tuple(source.shapes[name]) != shape:
      raise ValueError(f"tensor '{name}' has the shape {tuple(source.shapes[name])}; config.json asks for {shape}.")
  tied = {NAMES['head/kernel']}      # a second copy of the embedding, of a model that ties them
  if unknown := {n for n in set(source.shapes) - set(wanted) - tied if not n.endswith(PASSED)}:
    raise ValueError(f'the weights have {tensors.listed(unknown)}, which a {source.config.get("model_type")} model does not read.')


def load(source: Source, shapes: Any, shardings: Any) -> Any:
  """Parameters, float32, each where `shardings` puts it; leaves that have no name in the files are left out.

  A device's block is filled layer by layer and handed over before the next one begins: beside the result there is never more
  than one (stacked) parameter in host memory, and a piece of a tensor of the file. Of a process's devices each gets its own block.

  Raises:
    ValueError: as `verify`.
  """
  verify(source, shapes)
  where, sizes = traverse_util.flatten_dict(shardings), traverse_util.flatten_dict(shapes)
  out = {}
  for path, (names, _) in places(shapes).items():
    out[path] = _placed(source, path, names, sizes[path].shape, where[path])
  return traverse_util.unflatten_dict(out)


def _placed(source, path, names, shape, sharding):
  """One parameter: each block is read once, whatever the number of devices that hold it."""
  owners: dict[tuple, list] = {}
  for device, index in sharding.addressable_devices_indices_map(shape).items():
    owners.setdefault(tuple(s.indices(n)[:2] for s, n in zip(index, shape, strict=True)), []).append(device)
  arrays = []
  for bounds, devices in owners.items():
    block = _block(source, path, names, bounds)
    arrays += [jax.device_put(block, device) for device in devices]
    jax.block_until_ready(arrays)
  return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


def _block(source, path, names, bounds):
  """The block of a parameter between bounds; layers first, where it has any."""
  out = np.empty([stop - start for start, stop in bounds], np.float32)
  stacked, turned = path[0] in STACKS, path[-1] == 'kernel'
  (start, stop), *rest = [b for b in (bounds[1:] if stacked else bounds)][::-1 if turned else 1]
  rows = max(1, PIECE // (4 * math.prod(b - a for a, b in rest)))
  for name, layer in zip(names[slice(*bounds[0])], out) if stacked else ((names[0], out),):
    theirs = layer.T if turned else layer
    for at in range(start, stop, rows):
      end = min(at + rows, stop)
      theirs[at - start:end - start] = source.read(name, (slice(at, end), *(slice(*b) for b in rest)))
  return out


def unstacked(params: Any) -> dict[str, tensors.Tensor]:
  """Their name -> tensor, of the parameters that have one there (value heads have none), each fetched when it is read."""
  named = {}
  flat = traverse_util.flatten_dict(params)
  for path, (names, shape) in places(params).items():
    for i, name in enumerate(names):
      def read(x=flat[path], i=i, path=path):
        x = np.asarray(jax.device_get(x[i] if path[0] in STACKS else x), np.float32)
        return x.T if path[-1] == 'kernel' else x
      named[name] = tensors.Tensor(shape, read)
  return ordered(named)


def ordered(named: Mapping[str, Any]) -> dict[str, Any]:
  """The entries in the order a reader of the file expects: embedding, layers, norm, head."""
  order = {name: i for i, name in enumerate(NAMES.values())}

  def rank(name):
    parts = name.split('.')
    layer = int(parts[2]) if parts[1] == 'layers' else -1 if parts[1] == 'embed_tokens' else len(named)
    return layer, order[name.replace(f'.{layer}.', '.{}.', 1) if parts[1] == 'layers' else name]
  return {name: named[name] for name in sorted(named, key=rank)}


def save(folder: str, policy_config: Any, params: Any, files: Mapping[str, Any] | None = None, *, like: Mapping[str, Any] | None = None,
         dtype: str = 'float32', shard_bytes: int = 5_000_000_000) -> None:
  """Writes a folder that transformers opens: config.json, safetensors, tokenizer.json, tokenizer_config.json, chat_template.jinja.

  It is written beside `folder` and renamed when whole.

  Args:
    folder: must not be there yet, or be empty.
    policy_config: `policy.config`.
    params: of the policy; adapters are merged, value heads are left out.
    files: what `pretrained.tokenizer_files` gives: tokenizer (JSON text), config (a dict), template (text or None), generation.
    like: config.json of the model it was trained from.
    dtype: 'float32' | 'bfloat16' | 'float16' of the tensors.
    shard_bytes: a larger model is cut into files of this size.

  Raises:
    ValueError: a policy of no known family; a folder that is taken; an unknown dtype.
  """
  config = config_of(policy_config, like, dtype=dtype)
  named = unstacked(lora.merged(params))
  write(folder, config, named, files, dtype=dtype, shard_bytes=shard_bytes)


def write(folder: str, config: Mapping[str, Any], named: Mapping[str, tensors.Tensor], files: Mapping[str, Any] | None = None, *,
          dtype: str = 'float32', shard_bytes: int = 5_000_000_000, wrote: Callable[[int], None] = lambda count: None) -> None:
  """A folder in the Hugging Face layout from tensors by their names there; see `save`."""
  folder = os.path.abspath(folder)
  if os.path.exists(folder) and (not os.path.isdir(folder) or os.listdir(folder)):
    raise ValueError(f"'{folder}' is there already: give another folder, or delete it first.")
  part = folder + '.part'
  shutil.rmtree(part, ignore_errors=True)
  os.makedirs(part)
  try:
    tensors.write(part, named, dtype=dtype, shard_bytes=shard_bytes, wrote=wrote)
    _write(part, 'config.json', _text(config))
    if files is not None:
      _write(part, 'tokenizer.json', files['tokenizer'])
      _write(part, 'tokenizer_config.json', _text(files['config']))
      if files.get('template'):
        _write(part, 'chat_template.jinja', files['template'])
      if files.get('generation'):
        _write(part, 'generation_config.json', _text(files['generation']))
    if os.path.isdir(folder):
      os.rmdir(folder)
    os.rename(part, folder)
  except BaseException:
    shutil.rmtree(part, ignore_errors=True)
    raise


def _text(value):
  return json.dumps(value, indent=2, ensure_ascii=False) + '\n'


def _write(folder, name, text):
  with open(os.path.join(folder, name), 'w', encoding='utf-8') as f:
    f.write(text)
    f.flush()
    os.fsync(f.fileno())


def tokenizer_files(folder: str) -> dict[str, Any]:
  """dict(tokenizer: text of tokenizer.json, config: tokenizer_config.json, template: the chat template's text or None, generation:
  generation_config.json or None).

  Of several named templates it is the one called 'default'.

  Raises:
    ValueError: no tokenizer.json.
  """
  path = os.path.join(folder, 'tokenizer.json')
  if not os.path.isfile(path):
    raise ValueError(f"'{folder}' has no tokenizer.json; a tokenizer of another kind (sentencepiece) must be converted first, "
                     'AutoTokenizer.from_pretrained(folder).save_pretrained(folder) in transformers.')
  with open(path, encoding='utf-8') as f:
    text = f.read()
  config = _json(folder, 'tokenizer_config.json') or {}
  beside = os.path.join(folder, 'chat_template.jinja')
  template = config.get('chat_template')
  if isinstance(template, list):
    template = {t['name']: t['template'] for t in template}.get('default')
  if os.path.isfile(beside):
    with open(beside, encoding='utf-8') as f:
      template = f.read()
  return dict(tokenizer=text, config=config, template=template, generation=_json(folder, 'generation_config.json'))
