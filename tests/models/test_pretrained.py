"""Pretrained policies in a run: by path and by name, with their own tokenizer; trained, resumed, opened, exported. Real answers."""

import json
import os
import shutil

import jax
import numpy as np
import pytest

from rlx import assemble, config, fetch, train
from rlx.config import ConfigError
from rlx.grow import engine as engines
from rlx.grow import tokenizer as grown
from rlx.learn import mesh as meshes
from rlx.models import hf, tensors
from rlx.models import pretrained as models
from rlx.models.transformer import transformer
from rlx.types import Model
from tests.models.pretrained_runs import folder, own_tokenizers, run_of  # noqa: F401 (fixtures)

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(__file__)), 'golden')


def made(c, heads=None, **mesh):
  tok = assemble.tokenizer(c, assemble.environment(c))
  return assemble.models(c, tok, meshes.create(**mesh), heads or {})


# ---- configs -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('spec', ['qwen2.5-coder-0.5b', dict(name='qwen2.5-coder-0.5b'), dict(name='pretrained', path='qwen2.5-coder-0.5b')])
def test_a_name_that_fetch_knows_is_a_path(spec, monkeypatch, tmp_path):
  c = config.load('tests/configs/tiny.py', {'models.policy': spec})
  assert dict(assemble.policy_spec(c.models.policy)) == dict(name='pretrained', path='qwen2.5-coder-0.5b')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  with pytest.raises(ConfigError, match='has not been fetched yet: run `python -m rlx.fetch qwen2.5-coder-0.5b`'):
    train.run(c, workdir=str(tmp_path / 'run'))


def test_names_of_architectures_stay_what_they_are():
  for spec in ('transformer', dict(name='transformer', layers=2), dict(copy='policy'), None, transformer):
    assert assemble.policy_spec(spec) == spec


@pytest.mark.parametrize(('spec', 'said'), [
    (dict(path='/nowhere'), "there is no model '/nowhere': give a Hugging Face folder, a .gguf file, or one of smollm2"),
    (dict(layers=3), "'layers' is given by the files"),
    (dict(sped=3), "there is no keyword 'sped'; there are"),
    (dict(dtype='float99'), 'float99'),
    (dict(remat='some'), "remat='some'"),
])
def test_a_spec_that_cannot_work_is_one_sentence(spec, said, folder, tmp_path):
  with pytest.raises(ConfigError, match=said):
    train.run(run_of(tmp_path, {'name': 'pretrained', 'path': folder, **spec}))
  assert not os.path.exists(tmp_path / 'run')


def test_the_models_vocabulary_may_be_larger_never_smaller(folder):
  size = models.opened(folder).config['vocab_size']
  assert models.pretrained(path=folder, vocab=size - 9).config.vocab == size
  with pytest.raises(ValueError, match=f'the tokenizer has {size + 1} ids'):
    models.pretrained(path=folder, vocab=size + 1)


def test_weights_are_loaded_once_and_only_heads_are_drawn(folder, tmp_path, monkeypatch, capsys):
  loads = []
  monkeypatch.setattr(hf, 'load', lambda *a, load=hf.load: loads.append(1) or load(*a))
  c = run_of(tmp_path, dict(name='pretrained', path=folder), tokenizer='bpe')
  found = made(c, dict(policy=('value',)), fsdp=2)
  assert "brings its own tokenizer; c.tokenizer 'bpe' is not used" in capsys.readouterr().out
  assert len(loads) == 1
  assert found['before'].params is found['policy'].params
  params = found['policy'].params
  assert params['heads']['value']['kernel'].shape == (16, 1)
  stored = tensors.stored(folder)
  name = 'model.layers.1.mlp.up_proj.weight'
  np.testing.assert_array_equal(params['layers']['mlp']['up']['kernel'][1].T, tensors.read(name, stored[name], (slice(None), slice(None))))
  c.seed = 1      # a seed draws heads, never weights
  jax.tree.map(np.testing.assert_array_equal, {**made(c)['policy'].params}, {k: v for k, v in params.items() if k != 'heads'})


def test_models_of_one_run_share_their_tokens(folder, tmp_path):
  same, other = str(tmp_path / 'same'), str(tmp_path / 'other')
  for where in (same, other):
    shutil.copytree(folder, where)
  text = models.tokenizer_files(folder)['tokenizer']
  with open(os.path.join(other, 'tokenizer.json'), 'w', encoding='utf-8') as f:
    f.write(text.replace('<|end|>', '<|over|>'))
  spec = lambda path: dict(name='pretrained', path=path)
  assert set(made(run_of(tmp_path, spec(folder), models=dict(policy=spec(folder), judge=spec(same))))) == {'judge', 'policy'}
  for policy in (spec(folder), dict(name='transformer', layers=1, dim=16, heads=2)):
    with pytest.raises(ConfigError, match="model 'judge' .* has another tokenizer than the policy"):
      made(run_of(tmp_path, policy, models=dict(policy=policy, judge=spec(other)), tokenizer=dict(name='bpe', size=300)))


# ---- real models ------------------------------------------------------------------------------------------------------

def answers(name):
  if not os.path.isdir(fetch.folder(name)):
    pytest.skip(f'{name} is not there: python -m rlx.fetch {name}')
  with open(os.path.join(GOLDEN, 'answers.json'), encoding='utf-8') as f:
    return json.load(f)[name]['chats']


def check_answers(name):
  """The sampler at temperature 0, from the question's text to the token that ends the answer, or 32 of them."""
  chats = answers(name)
  tok = grown.pretrained(path=name)
  policy = models.pretrained(path=name, vocab=tok.size)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  params = policy.load(meshes.shard_params(shapes, (), meshes.create(devices=jax.devices()[:1])))
  contexts = [list(tok.turn(c['question'], True)) for c in chats]
  assert contexts == [c['ids'] for c in chats] and [tok.decode(c['ids']) for c in chats] == [c['prompt'] for c in chats]
  engine = engines.create(Model(policy, params, tok), engines.Limits(slots=4, width=96, turn=32, chunk=48), engines.Stop(ids=tok.ends))
  said = engines.speak(engine, [engines.Request(ids, -1, np.zeros(2, np.uint32), dict(temperature=0.), 32) for ids in contexts])
  assert [s.ids for s in said] == [c['answer'] for c in chats]


def test_greedy_answers_of_smollm2_are_those_of_transformers():
  check_answers('smollm2')


@pytest.mark.slow
def test_greedy_answers_of_qwen_are_those_of_transformers():
  check_answers('qwen2.5-coder-0.5b')


@pytest.mark.slow
@pytest.mark.parametrize('name', ['smollm2', 'qwen2.5-coder-0.5b'])
def test_the_folder_says_what_its_gguf_file_says(name):
  answers(name)
  file = os.path.join(fetch.folder(name), f'{name}.gguf')
  a, b = models.opened(name), models.opened(file)
  assert set(a.shapes) == set(b.shapes) and hf.keywords(a.config) == hf.keywords(b.config)
  for tensor, shape in a.shapes.items():
    if 'embed' not in tensor and 'lm_head' not in tensor:
      every = tuple(slice(0, n) for n in shape)
      np.testing.assert_array_equal(a.read(tensor, every), b.read(tensor, every))
  assert models.tokenizer_files(name)['tokenizer'] == models.tokenizer_files(file)['tokenizer']
