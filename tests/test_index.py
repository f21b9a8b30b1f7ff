"""configs/README.md is what `python -m rlx.index` writes; every method of credit and loss says how it is proven."""

import inspect
import os
import re

import pytest

from rlx import config, index

PROVEN = ('estimator', 'loss', 'selector', 'reward')


@pytest.fixture(scope='module')
def page():
  return index.render()


def test_the_page_is_fresh(page, monkeypatch, capsys):
  monkeypatch.setattr(index, 'render', lambda: page)
  assert index.main(['--check']) == 0, 'run python -m rlx.index'
  monkeypatch.setattr(index, 'render', lambda: page + '\n')
  assert index.main(['--check']) == 1
  assert 'configs/README.md is stale: run python -m rlx.index' in capsys.readouterr().out


def test_what_is_not_a_clone_is_told_in_a_sentence(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(index, 'ROOT', str(tmp_path))
  assert index.main([]) == 2
  assert 'run this in a clone' in capsys.readouterr().err
  assert index.main(['--chekc']) == 2


def test_every_config_and_every_method_has_a_row(page):
  files = [f for f in os.listdir(os.path.join(index.ROOT, 'configs')) if f.endswith('.py') and not f.startswith('_')]
  for f in files:
    assert len(re.findall(rf'^\| \[{f}\]\({f}\) \| \S', page, re.M)) == 1, f
  for kind in config.KINDS:
    for name in config.names(kind):
      assert re.search(rf'^\| \[`{name}`\]\(\.\./\S+\) \| \S', page, re.M), f'{kind} {name}'
  assert '[`grpo`](../rlx/estimators/grpo.py)' in page and '[test_grpo.py](../tests/estimators/test_grpo.py)' in page
  assert '[2402.03300](https://arxiv.org/abs/2402.03300)' in page


def test_its_links_lead_somewhere(page):
  links = set(re.findall(r'\]\(([^)]+)\)', page))
  gone = [l for l in links if not l.startswith('https://arxiv.org/abs/') and not os.path.isfile(os.path.join(index.ROOT, 'configs', l))]
  assert not gone
  assert all(line.count('|') - line.count('\\|') in (5, 8) for line in page.splitlines() if line.startswith('|'))


@pytest.mark.parametrize('kind', PROVEN)
def test_a_method_says_how_it_is_proven_and_its_test_exists(kind):
  for name in config.names(kind):
    said = index.proof(inspect.getdoc(config.resolve(kind, name)) or '')
    assert said and re.fullmatch(r'(twin|golden)(; guess: \S.*)?|guess: \S.*', said), (
        f"{kind} '{name}': the last line of its docstring must be 'Proof: twin.', 'Proof: golden.', either followed by '; guess: <which part>', or 'Proof: guess: <which part>.'")
    assert index.test_of(kind, name, index.ROOT), f"{kind} '{name}' says '{said}', but no test names it"


def test_the_modes_of_a_method():
  def method(batch, *, channel='task', std=True, mode='b', eps=1e-6):
    """One.

    Args:
      batch: any, 'x' or 'y'.
      channel: as 'other'.
      std: divide.
      mode: 'a' for this,
        'b' or 'c' for that.
      eps: 'a' or 'b'.

    Returns:
      mode: 'z'.
    """
  assert index.modes(method, inspect.getdoc(method)) == '`std=True`; `mode`: b a c'
  assert index.modes(method, '') == '`std=True`'


def test_a_proof_stands_in_the_last_line():
  assert index.proof('One.\n\nProof: guess: eq. 5.\n') == 'guess: eq. 5'
  assert index.proof('Proof: twin.\n\nReturns:\n  x') is None
  assert index.proof('') is None


def test_first_sentences_and_papers():
  doc = 'PPO, clipped (arXiv:1707.06347, eq. 7): a | b `<x>` and <y>. More.\n\nSource: arXiv:1912.09729, arXiv:1707.06347.'
  assert index.sentence(doc) == 'PPO, clipped'
  assert index.sentence('Dr. GRPO on a task: it is. And more.') == 'Dr. GRPO on a task'
  assert index.sentence(doc, whole=True) == 'PPO, clipped: a \\| b `<x>` and &lt;y>'
  assert index.papers(doc) == '[1707.06347](https://arxiv.org/abs/1707.06347) [1912.09729](https://arxiv.org/abs/1912.09729)'


def test_what_a_config_uses():
  used = index.uses(config.load(os.path.join(index.ROOT, 'configs', 'ppo.py')))
  assert used['estimator'] == ['ones', 'gae'] and used['loss'] == ['sft', 'ppo_clip', 'value']
  assert used['transform'] == ['score'] and used['source'] == ['expert', 'rollout'] and used['env'] == ['sql']
