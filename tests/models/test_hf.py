"""Hugging Face folders: golden logits of transformers, both ways, in bounded memory, with clear refusals."""

import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlx.learn import mesh as meshes
from rlx.models import hf, tensors
from rlx.models.pretrained import pretrained
from rlx.models.transformer import transformer

MODELS = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'golden', 'models')
FAMILIES = ('llama3', 'smollm2', 'linear', 'qwen2', 'qwen3', 'qwen3_untied')
KEPT = 24


def loaded(policy, rules=(), devices=1, **mesh):
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  return policy.load(meshes.shard_params(shapes, rules, meshes.create(**mesh, devices=jax.devices()[:devices])))


def logits(policy, params, ids):
  row = lambda x: jnp.asarray(x, jnp.int32).reshape(1, -1)
  hidden, _ = policy.apply(params, row(ids), row(range(ids.size)), row([ids.size] * ids.size))
  return np.asarray(jnp.dot(hidden, policy.head(params), precision='highest'))[0]


@pytest.fixture(scope='module')
def golden():
  with np.load(os.path.join(MODELS, 'logits.npz')) as f:
    return dict(f)


def stored(folder):
  """name -> tensor of all files of a folder."""
  return {k: v for n in sorted(os.listdir(folder)) if n.endswith('.safetensors') for k, v in load_file(os.path.join(folder, n)).items()}


def config_of(folder):
  with open(os.path.join(folder, 'config.json'), encoding='utf-8') as f:
    return json.load(f)


def copied(name, tmp_path, **changes):
  """A golden model in a folder of its own, with changes of its config.json; None takes a key away."""
  folder = tmp_path / name
  shutil.copytree(os.path.join(MODELS, name), folder)
  config = {k: v for k, v in {**config_of(folder), **changes}.items() if changes.get(k, v) is not None or k not in changes}
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


@pytest.mark.parametrize('name', FAMILIES)
def test_logits_are_those_of_transformers(name, golden):
  policy = pretrained(path=os.path.join(MODELS, name))
  got = logits(policy, loaded(policy), golden['ids'])[-KEPT:]
  assert np.abs(golden[name]).max() > 2
  np.testing.assert_allclose(got, golden[name], atol=1e-4)


def test_scaling_matters_in_the_golden_numbers(golden, tmp_path):
  for name in ('llama3', 'linear'):
    policy = pretrained(path=str(copied(name, tmp_path, rope_parameters=dict(rope_theta=500000. if name == 'llama3' else 10000., rope_type='default'))))
    assert np.abs(logits(policy, loaded(policy), golden['ids'])[-KEPT:] - golden[name]).max() > .1


@pytest.mark.parametrize('name', FAMILIES)
def test_saving_gives_back_the_same_tensors_and_config(name, tmp_path):
  source = os.path.join(MODELS, name)
  policy = pretrained(path=source)
  like = config_of(source)
  out = str(tmp_path / 'out')
  hf.save(out, policy.config, loaded(policy), like=like, dtype=like['dtype'])
  theirs, ours = stored(source), stored(out)
  assert set(theirs) == set(ours)
  for k, x in theirs.items():
    assert x.dtype == ours[k].dtype
    np.testing.assert_array_equal(x.view(np.uint8), ours[k].view(np.uint8))
  saved = config_of(out)
  assert hf.keywords(saved) == hf.keywords(like)
  assert (saved['architectures'], saved['model_type'], saved['eos_token_id'], saved['max_position_embeddings']) == (
      like['architectures'], like['model_type'], like['eos_token_id'], like['max_position_embeddings'])
  assert sorted(os.listdir(tmp_path)) == ['out']


def test_a_policy_that_never_was_a_file_is_saved_in_shards_and_read_again(tmp_path):
  policy = transformer(vocab=40, layers=3, dim=16, heads=4, kv_heads=2, ff=24, qk_norm=True, tied=False,
                       rope_scaling=dict(rope_type='linear', factor=2.))
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: jnp.asarray(draw.normal(size=x.shape), jnp.float32), jax.eval_shape(policy.init, jax.random.key(0)))
  files = dict(tokenizer='{}', config=dict(eos_token='x'), template='{{ messages }}', generation=dict(eos_token_id=[1, 2]))
  hf.save(str(tmp_path / 'm'), policy.config, {**params, 'heads': dict(value=dict(bias=jnp.zeros(1)))}, files, shard_bytes=4000)
  index = json.loads((tmp_path / 'm' / tensors.INDEX).read_text())
  assert len(set(index['weight_map'].values())) > 3
  assert index['metadata']['total_size'] == sum(x.nbytes for x in jax.tree.leaves(params))
  again = pretrained(path=str(tmp_path / 'm'), vocab=37)
  jax.tree.map(np.testing.assert_array_equal, loaded(again), params)
  assert hf.tokenizer_files(str(tmp_path / 'm')) == files


def test_value_heads_and_adapters_are_left_to_init():
  policy = pretrained(path=os.path.join(MODELS, 'smollm2'))
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  shapes['layers']['attention']['q']['lora_a'] = shapes['embed']['table']
  assert not any('lora_a' in path for path in hf.places(shapes))


def test_two_stacks_of_layers_are_counted_through():
  source = hf.source(os.path.join(MODELS, 'qwen2'))
  shapes = jax.eval_shape(transformer(**hf.keywords(source.config)).init, jax.random.key(0))
  part = lambda n: jax.tree.map(lambda x: jax.ShapeDtypeStruct((n, *x.shape[1:]), x.dtype), shapes['layers'])
  halves = {**shapes, 'lower': part(1), 'layers': part(1)}
  where = lambda tree: jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), tree)
  whole, two = hf.load(source, shapes, where(shapes)), hf.load(source, halves, where(halves))
  for i, name in enumerate(('lower', 'layers')):
    jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[0], y[i]), two[name], whole['layers'])


# ---- where it is put, and in how much memory -------------------------------------------------------------------------

def test_every_device_reads_its_own_block_and_no_piece_is_large(monkeypatch):
  source, asked = hf.source(os.path.join(MODELS, 'llama3')), []
  def read(name, index):
    asked.append(int(np.prod([s.stop - s.start for s in index])))
    return source.read(name, index)
  policy = transformer(**hf.keywords(source.config))
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  mesh = meshes.create(data=2, fsdp=2, tensor=2)
  where = meshes.shard_params(shapes, (('.*(q|k|v|gate|up)/kernel', ('fsdp', 'tensor')), ('.*', 'fsdp')), mesh)
  monkeypatch.setattr(hf, 'PIECE', 256)
  params = hf.load(source._replace(read=read), shapes, where)
  assert max(asked) <= 64
  assert sum(asked) == sum(x.size for x in jax.tree.leaves(params))      # two replicas share a block
  one = hf.load(source, shapes, jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes))
  jax.tree.map(np.testing.assert_array_equal, params, one)
  assert jax.tree.map(lambda x, s: x.sharding == s, params, where) == jax.tree.map(lambda _: True, params)


def test_loaded_arrays_may_be_donated():
  policy = pretrained(path=os.path.join(MODELS, 'smollm2'))
  params = loaded(policy, devices=8, data=8)      # the whole on each device
  before = jax.device_get(params)
  after = jax.jit(lambda p: jax.tree.map(lambda x: x + 1, p), donate_argnums=0)(params)
  for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
    for shard in x.addressable_shards:
      np.testing.assert_array_equal(shard.data, y + 1)


MEASURE = """
import re, sys, jax
from rlx.learn import mesh as meshes
from rlx.models.pretrained import pretrained
policy = pretrained(path=sys.argv[1])
shapes = jax.eval_shape(policy.init, jax.random.key(0))
where = meshes.shard_params(shapes, (('.*', 'fsdp'),), meshes.create(fsdp=int(sys.argv[2])))
jax.block_until_ready(jax.device_put(0., jax.devices()[0]))
peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1]) / 1024      # ru_maxrss is the parent's too
before = peak()
params = policy.load(where)
print(peak() - before, sum(x.nbytes for x in jax.tree.leaves(params)) / 2**20, max(x.nbytes for x in jax.tree.leaves(params)) / 2**20)
"""


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.skipif(not os.path.exists('/proc/self/status'), reason='reads the peak in /proc/self/status')
def test_peak_memory_is_the_model_and_one_parameter(devices, tmp_path):
  policy = transformer(vocab=8192, layers=8, dim=512, heads=8, ff=1536)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  named = {n: tensors.Tensor(s, lambda s=s: np.zeros(s, np.float32)) for names, s in hf.places(shapes).values() for n in names}
  hf.write(str(tmp_path / 'm'), hf.config_of(policy.config, dtype='bfloat16'), named, dtype='bfloat16')
  env = dict(os.environ, XLA_FLAGS=f'--xla_force_host_platform_device_count={devices}')
  done = subprocess.run([sys.executable, '-c', MEASURE, str(tmp_path / 'm'), str(devices)], capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-2000:]
  grown, total, largest = map(float, done.stdout.split())
  assert total > 4 * largest
  assert .5 * total < grown < total + largest / devices + 24, (grown, total, largest)


# ---- refusals ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(('name', 'changes', 'said'), [
    ('llama3', dict(model_type='mistral'), "model_type 'mistral' is not one of llama, qwen2, qwen3"),
    ('llama3', dict(attention_bias=True), 'attention_bias'),
    ('qwen3', dict(attention_bias=True), 'attention_bias'),
    ('llama3', dict(mlp_bias=True), 'mlp_bias'),
    ('qwen2', dict(use_sliding_window=True), 'sliding-window attention'),
    ('qwen2', dict(layer_types=['full_attention', 'sliding_attention']), 'sliding-window attention'),
    ('qwen2', dict(hidden_act='gelu'), "hidden_act 'gelu'"),
    ('qwen2', dict(quantization_config=dict(bits=4)), 'the weights are quantised'),
    ('qwen2', dict(rope_parameters=dict(rope_type='yarn', factor=4.)), "rope scaling 'yarn' is not one of default, linear, llama3"),
    ('llama3', dict(rope_parameters=dict(rope_type='llama3', factor=4.)), 'lacks low_freq_factor'),
    ('llama3', dict(rope_parameters=dict(rope_type='default', partial_rotary_factor=.5)), 'partial_rotary_factor'),
    ('llama3', dict(hidden_size=None), 'config.json lacks hidden_size'),
    ('llama3', dict(num_hidden_layers=3), 'the weights lack model.layers.2.*and 6 more, which config.json asks for'),
    ('qwen2', dict(num_hidden_layers=1), 'the weights have model.layers.1.*, which a qwen2 model does not read'),
    ('qwen2', dict(model_type='llama'), 'the weights have model.layers.0.self_attn.k_proj.bias'),
    ('smollm2', dict(tie_word_embeddings=False), 'the weights lack lm_head.weight'),
    ('smollm2', dict(intermediate_size=48), r"tensor 'model.layers.0.mlp.down_proj.weight' has the shape \(32, 32\); config.json asks for \(32, 48\)"),
])
def test_what_is_not_computed_is_refused(name, changes, said, tmp_path):
  with pytest.raises(ValueError, match=said):
    pretrained(path=str(copied(name, tmp_path, **changes)))


def test_older_spellings_mean_the_same():
  base = dict(model_type='llama', vocab_size=8, hidden_size=16, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4)
  llama3 = dict(factor=8., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=16)
  new = hf.keywords({**base, 'rope_parameters': dict(rope_theta=5e5, rope_type='llama3', **llama3)})
  assert new == hf.keywords({**base, 'rope_theta': 5e5, 'rope_scaling': dict(type='llama3', **llama3)})
  assert new['rope_scaling'] == dict(rope_type='llama3', **llama3)
  plain = hf.keywords({**base, 'rope_scaling': None})
  assert (plain['rope_base'], plain['rope_scaling'], plain['norm_eps'], plain['kv_heads'], plain['tied']) == (1e4, None, 1e-6, 4, False)
  assert hf.keywords({**base, 'model_type': 'qwen3'})['head_dim'] == 128
  assert not hf.keywords({**base, 'model_type': 'qwen2', 'sliding_window': 4096, 'use_sliding_window': False})['qk_norm']


def test_files_that_are_missing_pickled_or_cut_off(tmp_path):
  with pytest.raises(ValueError, match='there is no config.json'):
    pretrained(path=str(tmp_path))
  folder = copied('smollm2', tmp_path)
  weights = folder / tensors.SINGLE
  whole = weights.read_bytes()
  weights.write_bytes(whole[:-100])
  with pytest.raises(ValueError, match='is not a whole safetensors file'):
    pretrained(path=str(folder))
  weights.unlink()
  with pytest.raises(ValueError, match='there is neither model.safetensors nor'):
    pretrained(path=str(folder))
  (folder / 'pytorch_model.bin').write_bytes(b'\x80')
  with pytest.raises(ValueError, match=r'pickled weights \(pytorch_model.bin\), which are never read'):
    pretrained(path=str(folder))
  (folder / 'config.json').write_text('{')
  with pytest.raises(ValueError, match='is not JSON'):
    pretrained(path=str(folder))
  folder = copied('qwen2', tmp_path)
  os.remove(next(folder.glob('model-00002-*')))
  with pytest.raises(ValueError, match='lacks model-00002-of-00003.safetensors'):
    pretrained(path=str(folder))
  folder = copied('linear', tmp_path)
  values = load_file(folder / tensors.SINGLE)
  save_file({**values, 'model.norm.weight': values['model.norm.weight'].astype(np.int32)}, folder / tensors.SINGLE)
  with pytest.raises(ValueError, match="tensor 'model.norm.weight' is stored as I32"):
    loaded(pretrained(path=str(folder)))


def test_a_save_that_fails_leaves_nothing(tmp_path):
  policy = transformer(vocab=8, layers=1, dim=8, heads=2, ff=8)
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(policy.init, jax.random.key(0)))
  with pytest.raises(ValueError, match="has activation 'relu2'"):
    hf.save(str(tmp_path / 'a'), transformer(vocab=8, layers=1, dim=8, heads=2, activation='relu2').config, params)
  with pytest.raises(ValueError, match="dtype 'int8' is not one of"):
    hf.save(str(tmp_path / 'a'), policy.config, params, dtype='int8')
  (tmp_path / 'b').mkdir()
  (tmp_path / 'b' / 'mine').write_text('x')
  with pytest.raises(ValueError, match='is there already'):
    hf.save(str(tmp_path / 'b'), policy.config, params)
  assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob('*'))] == ['b', 'b/mine']


# ---- transformers itself ---------------------------------------------------------------------------------------------

THEIRS = """
import sys, numpy, torch, transformers
for folder in sys.argv[2:]:
  model, info = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
  assert not any(info[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys')), info
  with torch.no_grad():
    numpy.save(folder + '/logits.npy', model(torch.tensor(numpy.load(sys.argv[1]))).logits[0].numpy())
"""


def test_transformers_opens_what_is_saved(golden, tmp_path):
  """With a Python that has transformers and torch: this one, or the one that RLX_TRANSFORMERS_PYTHON names."""
  python = os.environ.get('RLX_TRANSFORMERS_PYTHON', sys.executable)
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  if subprocess.run([python, '-c', 'import torch, transformers'], capture_output=True, env=env).returncode:
    pytest.skip(f'{python} has no transformers and torch; name one that has in RLX_TRANSFORMERS_PYTHON')
  np.save(tmp_path / 'ids.npy', golden['ids'])
  ours = {}
  for name in FAMILIES:
    policy = pretrained(path=os.path.join(MODELS, name))
    params = jax.tree.map(lambda x: x * 1.01, loaded(policy))
    for like in (None, config_of(os.path.join(MODELS, name))):
      out = str(tmp_path / f'{name}-{like is None}')
      hf.save(out, policy.config, params, like=like, shard_bytes=20_000)
      ours[out] = logits(policy, params, golden['ids'])
  done = subprocess.run([python, '-c', THEIRS, str(tmp_path / 'ids.npy'), *ours], capture_output=True, text=True, env=env)
  assert done.returncode == 0, done.stderr[-3000:]
  for out, mine in ours.items():
    np.testing.assert_allclose(np.load(os.path.join(out, 'logits.npy')), mine, atol=1e-4)
