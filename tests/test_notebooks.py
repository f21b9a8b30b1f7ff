"""Every notebook runs from top to bottom, in the interpreter of the tests; they are stored without outputs."""

import base64
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob('notebooks/*.ipynb'))
NEEDED = ('nbclient', 'nbformat', 'ipykernel')
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
EXECUTE = """
import sys, nbclient, nbformat
source, out = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell('import sys; print(sys.executable, *history.column("reward/task")[80:])'))
nbclient.NotebookClient(notebook, kernel_name='this', timeout=300, resources={'metadata': {'path': 'notebooks'}}).execute()
nbformat.write(notebook, out)
"""


def execute(path, tmp_path):
  """The cells of a notebook after it ran: in a process of its own, since Jupyter leaves sockets open and warns, with a kernel that is this interpreter."""
  kernel = tmp_path / 'kernels' / 'this'
  kernel.mkdir(parents=True)
  argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
  (kernel / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='this', language='python')))
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTHONPATH')}   # as a user has it: one device
  done = subprocess.run([sys.executable, '-c', EXECUTE, str(path), str(tmp_path / 'out.ipynb')], cwd=ROOT, capture_output=True, text=True,
                        env={**env, 'JUPYTER_PATH': str(tmp_path), 'IPYTHONDIR': str(tmp_path / 'ipython')})
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads((tmp_path / 'out.ipynb').read_text())['cells']


@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} missing: pip install -e '.[test]'")
def test_the_new_estimator(tmp_path):
  *cells, probe = [c for c in execute(ROOT / 'notebooks' / '01_new_estimator.ipynb', tmp_path) if c['cell_type'] == 'code']
  interpreter, *rewards = ''.join(probe['outputs'][0]['text']).split()
  assert interpreter == sys.executable and len(rewards) == 10
  assert sum(map(float, rewards[-3:])) / 3 > sum(map(float, rewards[:2])) / 2 + .01   # it learns to end its episodes
  said = ''.join(''.join(o['text']) for c in cells for o in c['outputs'] if o.get('name') == 'stdout')
  assert re.search(r'^  1 +0 +-0\.1667$', said, re.M) and re.search(r'^4 +0 +0\.3333$', said, re.M)
  assert base64.b64decode(cells[-1]['outputs'][-1]['data']['image/png']).startswith(b'\x89PNG')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_without_outputs(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  assert cells and not any(c.get('outputs') or c.get('execution_count') for c in cells), f'clear the outputs of {path.name}'


def test_each_notebook_has_a_test():
  assert [p.name for p in NOTEBOOKS] == ['01_new_estimator.ipynb']
