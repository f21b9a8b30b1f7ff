"""A pretrained policy in a run: trained, opened, continued from, exported."""

import shutil

import jax
import numpy as np

import rlx
from rlx import export, session, train
from rlx.learn import mesh as meshes
from rlx.models import pretrained as models
from rlx.models import tensors
from tests.models.pretrained_runs import folder, own_tokenizers, run_of  # noqa: F401 (fixtures)


def test_a_run_is_trained_resumed_opened_continued_and_exported(folder, tmp_path):
  c = run_of(tmp_path, dict(name='pretrained', path=folder), **{'tx.learning_rate': 1e-2, 'checkpoint.every': 1})
  first = train.run(c)
  assert len(first.records) == 2
  longer = run_of(tmp_path / 'b', dict(name='pretrained', path=folder), **{'init_from': str(tmp_path / 'run'), 'phases[1].steps': 0})
  assert len(train.run(longer).records) == 1
  opened = rlx.load(c.workdir)
  assert opened.world.tokenizer.size < opened.world.models['policy'].policy.config.vocab
  assert isinstance(opened.sample('1 + 2 ='), str)
  out = str(tmp_path / 'out')
  assert export.main(['--workdir', c.workdir, '--out', out]) == 0
  trained, plain = opened.world.models['policy'].params, models.pretrained(path=out)
  there = meshes.shard_params(jax.eval_shape(plain.init, jax.random.key(0)), (), meshes.create(devices=jax.devices()[:1]))
  jax.tree.map(np.testing.assert_array_equal, plain.load(there), {k: v for k, v in trained.items() if k != 'heads'})
  moved = tensors.read('model.norm.weight', tensors.stored(out)['model.norm.weight'], (slice(None),))
  assert np.abs(moved - 1).max() > 1e-3
  assert models.tokenizer_files(out) == models.tokenizer_files(folder)
  assert session.restored(c.workdir, 1)[2] == 1
  assert export.main(['--workdir', c.workdir, '--out', str(tmp_path / 'early'), '--step', '1', '--dtype', 'bfloat16']) == 0
  assert tensors.stored(str(tmp_path / 'early'))['model.norm.weight'].dtype == 'BF16'


def test_export_says_what_is_wrong(tmp_path, capsys):
  assert export.main(['--workdir', str(tmp_path)]) == 2
  assert 'usage: python -m rlx.export' in capsys.readouterr().err
  assert export.main(['--workdir', str(tmp_path), '--out', str(tmp_path / 'o')]) == 2
  assert 'holds no run' in capsys.readouterr().err


def test_export_writes_the_template_of_the_run(folder, tmp_path):
  """A run with a template of its own exports its text, also where the config names a file that is gone by then."""
  text, file = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}', tmp_path / 'mine.jinja'
  for template, wanted in ((str(file), text), (text, text), (None, None)):
    file.write_text(text)
    c = run_of(tmp_path / str(wanted and len(template)), dict(name='pretrained', path=folder), **{
        'tokenizer': dict(name='pretrained', path=folder, template=template), 'phases[1].steps': 0})
    train.run(c)
    file.unlink()
    export.export(c.workdir, str(tmp_path / 'out'))
    assert models.tokenizer_files(str(tmp_path / 'out'))['template'] == wanted
    shutil.rmtree(tmp_path / 'out')
