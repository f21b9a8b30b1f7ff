"""A small pretrained model in a folder, and runs of tests/configs/tiny.py that begin with it."""

import os
import tempfile

import jax
import numpy as np
import pytest

from rlx import config
from rlx.grow import tokenizer as grown
from rlx.models import hf
from rlx.models import pretrained as models
from rlx.models.transformer import transformer
from tests.configs import tiny


@pytest.fixture(autouse=True)
def own_tokenizers(monkeypatch):
  """The tokenizer kind `pretrained`, as plain text where this version of rlx has none with chat templates."""
  if not hasattr(grown, 'pretrained'):
    def pretrained(*, path):
      with tempfile.NamedTemporaryFile('w', suffix='.json') as f:
        f.write(models.tokenizer_files(path)['tokenizer'])
        f.flush()
        return grown.file(path=f.name)
    pretrained.__module__ = grown.__name__
    monkeypatch.setattr(grown, 'pretrained', pretrained, raising=False)
    monkeypatch.setattr(grown, '__all__', (*grown.__all__, 'pretrained'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A small qwen2 model whose vocabulary is larger than its tokenizer's."""
  where = str(tmp_path_factory.mktemp('model') / 'qwen')
  env = tiny.sums()
  texts = [f'{t.id} = {t.data["answer"]}' for t in env.tasks('train')]
  tok = grown.bpe(texts=texts, size=280, special=('<|end|>',))
  with tempfile.TemporaryDirectory() as there:
    tok.save(os.path.join(there, 'tokenizer.json'))
    with open(os.path.join(there, 'tokenizer.json'), encoding='utf-8') as f:
      text = f.read()
  policy = transformer(vocab=tok.size + 9, layers=2, dim=16, heads=2, kv_heads=1, ff=24, qkv_bias=True)
  draw = np.random.default_rng(0)
  params = jax.tree.map(lambda x: draw.normal(1, .3, x.shape).astype(np.float32) if x.ndim < 3 else draw.normal(0, .3, x.shape).astype(np.float32),
                        jax.eval_shape(policy.init, jax.random.key(0)))
  hf.save(where, policy.config, params, dict(tokenizer=text, config=dict(eos_token='<|end|>'), template=None))
  return where


def run_of(tmp_path, policy, **overrides):
  return config.load('tests/configs/tiny.py', {'workdir': str(tmp_path / 'run'), 'models': dict(policy=policy, before=dict(copy='policy')), 'tokenizer': None, 'phases[0].steps': 1,
                                               'phases[1].steps': 1, 'eval.splits': {}, 'summary': (), **overrides})
