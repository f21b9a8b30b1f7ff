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

from rlx import testing

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob('notebooks/*.ipynb'))
NEEDED = ('nbclient', 'nbformat', 'ipykernel')
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
EXECUTE = """
import sys, nbclient, nbformat
source, out, probe = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
notebook.cells.append(nbformat.v4.new_code_cell(probe))
nbclient.NotebookClient(notebook, kernel_name='this', timeout=300, resources={'metadata': {'path': 'notebooks'}}).execute()
nbformat.write(notebook, out)
"""


def execute(name, tmp_path, probe):
  """The code cells of a notebook after it ran, and what `probe`, one more, printed: in a process of its own, since Jupyter leaves sockets open and warns, with a kernel that is this interpreter."""
  kernel = tmp_path / 'kernels' / 'this'
  kernel.mkdir(parents=True)
  argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
  (kernel / 'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='this', language='python')))
  env = {k: v for k, v in os.environ.items() if k not in ('XLA_FLAGS', 'PYTHONPATH')}   # as a user has it: one device
  path = ROOT / 'notebooks' / name
  done = subprocess.run([sys.executable, '-c', EXECUTE, str(path), str(tmp_path / 'out.ipynb'), probe], cwd=ROOT, capture_output=True, text=True,
                        env={**env, 'JUPYTER_PATH': str(tmp_path), 'IPYTHONDIR': str(tmp_path / 'ipython')})
  assert done.returncode == 0, done.stderr[-3000:]
  *cells, last = [c for c in json.loads((tmp_path / 'out.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
  return cells, ''.join(last['outputs'][0]['text'])


def printed(cells):
  return ''.join(''.join(o['text']) for c in cells for o in c['outputs'] if o.get('name') == 'stdout')


def shown(cells, kind):
  """What cells show at their end, of one kind."""
  return [''.join(o['data'][kind]) for c in cells for o in c['outputs'] if kind in o.get('data', {})]


needs_jupyter = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} missing: pip install -e '.[test]'")


@needs_jupyter
def test_the_new_estimator(tmp_path):
  cells, said = execute('01_new_estimator.ipynb', tmp_path, 'import sys; print(sys.executable, *history.column("reward/task")[80:])')
  interpreter, *rewards = said.split()
  assert interpreter == sys.executable and len(rewards) == 10
  assert sum(map(float, rewards[-3:])) / 3 > sum(map(float, rewards[:2])) / 2 + .01   # it learns to end its episodes
  said = printed(cells)
  assert re.search(r'^  1 +0 +-0\.1667$', said, re.M) and re.search(r'^4 +0 +0\.3333$', said, re.M)
  assert [svg.count('task') for svg in shown(cells, 'image/svg+xml')] == [3]      # the tree, beside its text
  assert base64.b64decode(shown(cells, 'image/png')[-1]).startswith(b'\x89PNG')


@needs_jupyter
def test_twelve_estimators(tmp_path):
  cells, said = execute('02_credit.ipynb', tmp_path, 'print(*(f"{k} {adv[k][0].item():.2f}" for k in ("grpo", "hgpo")), len(adv))')
  assert said.split() == ['grpo', '0.25', 'hgpo', '0.20', '12']
  forest, *four, whole = shown(cells, 'image/svg+xml')
  assert forest.count('state a') == 5 and len(four) == 3
  names = [n for svg in four for n in re.findall(r'>([a-z_]+)</text>', svg)]
  assert len(set(names)) == len(names) == 12 and '+1.38' in four[0]
  assert all(whole.count(f'>{n}<') == 12 for n in names[1:])                      # a bar in each step
  text = (ROOT / 'notebooks' / '02_credit.ipynb').read_text()
  assert all(f'- `{n}`: ' in text for n in names)                                 # and a sentence


@needs_jupyter
def test_a_race(tmp_path):
  cells, said = execute('03_your_estimator_against_all.ipynb', tmp_path, 'print(curves.shape, curves[:, :, 0].max(), curves[:, :, -5:].mean(1).min())')
  shape, first, last = said.rsplit(maxsplit=2)
  assert shape == '(6, 3, 40)' and float(first) < .6 and float(last) > .8
  assert printed(cells).count('kept: ') == len(testing.PROPERTIES) and re.search(r'^hgpo +0\.\d{3} \(', printed(cells), re.M)
  svg, = shown(cells, 'image/svg+xml')
  assert re.findall(r'>([a-z_]+)</text>', svg) == ['mine', 'grpo', 'rloo', 'reinforce_pp', 'gigpo', 'hgpo']
  assert base64.b64decode(shown(cells, 'image/png')[-1]).startswith(b'\x89PNG')


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_stored_without_outputs(path):
  cells = json.loads(path.read_text(encoding='utf-8'))['cells']
  assert cells and not any(c.get('outputs') or c.get('execution_count') for c in cells), f'clear the outputs of {path.name}'


def test_each_notebook_has_a_test():
  assert [p.name for p in NOTEBOOKS] == ['01_new_estimator.ipynb', '02_credit.ipynb', '03_your_estimator_against_all.ipynb']
