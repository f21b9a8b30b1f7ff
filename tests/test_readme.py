"""README.md names nothing that is not there, and its examples do what it says."""

import importlib.util
import json
import pathlib
import re
import shlex
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import config, groups, toy, tree, types
from rlx.types import Loss, Out

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```$', README, re.M | re.S)
PYTHON = [text for kind, text in BLOCKS if kind == 'python']
COMMANDS = [line.split(' # ')[0].strip() for _, text in BLOCKS for line in text.splitlines() if line.startswith('python -m rlx')]
TRACK = {'estimator', 'selector', 'average', 'loss', 'coef'}


def has(path):
  return (ROOT / path).exists()


def test_the_two_commands_stand_at_the_beginning_of_their_lines():
  assert "\npip install -e .         && python -m rlx.train --config configs/quickstart.py\n" in README
  assert "\npip install -e '.[test]' && python -m pytest\n" in README
  assert len(README.splitlines()) < 200


def test_every_link_and_every_path_exists():
  links = [l for l in re.findall(r'(?<!!)\[[^\]]*\]\(([^)]+)\)', README) if not l.startswith('http')]
  paths = re.findall(r'(?<![\w/.])(?:rlx|tests|configs|notebooks|pallas_kernels)/[\w./-]*\w', README)
  assert len(links) > 8 and len(paths) > 40
  assert not [p for p in dict.fromkeys(links + paths) if not has(p)]


def test_every_figure_is_filled_in():
  assert not re.findall(r'\{\{\w+\}\}', README)
  assert all(has(picture) for picture in re.findall(r'!\[[^\]]*\]\(([^)]+)\)', README))


def test_every_module_that_is_run_exists():
  modules = set(re.findall(r'python -m ([\w.]+)', README))
  assert {'rlx.train', 'rlx.eval', 'rlx.table', 'rlx.bench', 'rlx.index', 'rlx.show.report', 'pytest'} <= modules
  for name in modules:
    spec = importlib.util.find_spec(name)
    assert spec, name
    if name.startswith('rlx.'):
      run = importlib.util.find_spec(f'{name}.__main__') if spec.submodule_search_locations else spec
      assert "if __name__ == '__main__':" in pathlib.Path(run.origin).read_text(), name


@pytest.mark.parametrize('command', [c for c in COMMANDS if 'rlx.train' in c])
def test_a_training_command_has_a_config_and_overrides_that_work(command):
  flags, values = config.arguments(shlex.split(command)[3:])
  assert set(flags) <= {'config', 'workdir', 'check'}
  config.load(str(ROOT / flags['config']), values)


def test_every_config_key_exists():
  keys = set(re.findall(r'`c\.([\w.]+)', README)) | set(re.findall(r'^  c\.([\w.]+) =', README, re.M))
  assert {'env', 'tracks', 'mesh', 'sharding', 'checkpoint.every', 'init_from', 'tracks.main.estimator'} <= keys
  base = config.load(str(ROOT / 'configs' / 'base.py'))
  for key in keys:
    at = base
    for part in key.split('.'):
      assert part in at, f'c.{key}'
      at = at[part]
  assert set(re.findall(r'`(\w+)` of a track', README)) <= TRACK


def test_the_page_of_where_things_are():
  rows = re.findall(r'^\| [a-z]+ \| `([^`]+)` \| `(?:c\.)?(\w+)`[^|]* \| ([^|]*)\| `([^`]+)` \|$', README, re.M)
  base = config.load(str(ROOT / 'configs' / 'base.py'))
  for folder, key, names, tests in rows:
    assert has(folder) and any((ROOT / tests).glob('test_*.py')), folder
    assert key in base or key in TRACK or key == 'source', key
    assert all(hasattr(types, n) for n in re.findall(r'`(\w+)`', names)), names
  homes = {w.replace('.', '/') for w in config.KINDS.values() if importlib.util.find_spec(w)}
  assert {folder.removesuffix('.py') for folder, *_ in rows} == homes


# ---- the examples ------------------------------------------------------------------------------------------------------

def run(text):
  scope = dict(jnp=jnp, tree=tree, groups=groups, Loss=Loss)
  exec(compile(text, 'README.md', 'exec'), scope)
  return SimpleNamespace(**{k: v for k, v in scope.items() if not k.startswith('__')})


def test_the_six_lines_and_their_drawing(capsys):
  mine = run(PYTHON[0]).mine
  assert len(PYTHON[0].strip().splitlines()) == 6
  call, = re.findall(r'`batch = (toy\.batch\(.*?\))`', README)
  batch = eval(call, dict(toy=toy))
  toy.show(batch, jax.jit(mine)(batch))
  assert f'```\n{capsys.readouterr().out}```\n' in README
  cells = json.loads((ROOT / 'notebooks' / '01_new_estimator.ipynb').read_text())['cells']
  assert PYTHON[0].strip() in [''.join(c['source']) for c in cells]


def test_it_is_named_in_a_config():
  c = run(PYTHON[1]).get_config()
  assert c.name == 'mine' and c.tracks.main.estimator == ('my_lab.credit.mine',)
  config.build('estimator', dict(name=run(PYTHON[0]).mine, channel='task'))


def test_an_estimator_a_loss_and_a_reward():
  three = run(PYTHON[2])
  batch = toy.batch(parent=[-1, 0, -1, 2], task=[0, 1, 0, 0])
  adv = config.build('estimator', three.returns).call(batch)
  np.testing.assert_array_equal(adv, [1, 1, 0, 0])
  logp = jnp.array([[-1., -2.], [-3., -4.]])
  out = Out(logp=logp, entropy=logp, value={}, extra={})
  term = config.build('loss', three.reinforce).call().term(out, batch, jnp.array([[1., 1.], [0., 2.]]), ())
  np.testing.assert_array_equal(term, [[1, 2], [0, 8]])
  reward = config.build('reward', dict(name=three.brief, price=.5))
  assert reward.call(SimpleNamespace(nodes=[SimpleNamespace(ids=[7, 8]), SimpleNamespace(ids=[9])])) == {'brief': [-1., -.5]}
  assert reward.writes == ('reward/brief',)
