"""SPAE's probes: what they ask, and what becomes of log-probabilities and entropies."""

import functools

import numpy as np
import pytest

from rlx.probes.answer import answer
from rlx.probes.spae import spae
from rlx.types import Node, Task, View
from tests.grow import game
from tests.grow.game import Game, grow


def view(ends, data):
  nodes = [Node(-1, '', [], True, '', [], None, None, {}, end=e) for e in ends]
  return View(Task('t3', data), nodes, 0, {})


def test_what_is_asked():
  got = spae(view([0, 1, 3, 2], dict(answer='42')), before='<a>', samples=3, limit=7)
  assert [(p.name, p.node, p.suffix, p.score_from, p.samples, p.limit) for p in got if p.name == 'conf'] == [
      ('conf', i, '<a>', 3, 3, 7) for i in (0, 1, 3)]
  assert [(p.name, p.node, p.suffix, p.score_from, p.samples) for p in got if p.name == 'acc'] == [('acc', i, '<a>42', 3, 0) for i in (0, 1, 3)]
  assert spae(view([0], dict(sql='q')), key='sql')[1].suffix == '**Final Answer**\n\\boxed{q'


@pytest.mark.parametrize('form, conf, acc', [('paper', np.exp(-.5), .375), ('released', np.exp(-1.) / 2, .125 / 2)])
def test_reductions(form, conf, acc):
  """Entropies .2 and .8, mean .5 and sum 1; probabilities .5 and .25, mean .375 and product .125."""
  one, two = spae(view([0], dict(answer='a')), form=form)
  assert one.reduce(np.log([.9, .9]), np.float32([.2, .8])) == pytest.approx(conf)
  assert two.reduce(np.log([.5, .25]), None) == pytest.approx(acc)


def test_errors():
  with pytest.raises(ValueError, match="task 't3' has none"):
    spae(view([0], dict(sql='q')))
  with pytest.raises(ValueError, match="form is 'paper' or 'released'"):
    spae(view([0], dict(answer='q')), form='code')


def test_on_the_engine():
  """Every step has both, the last one too; the mean of the answer's probabilities is at least their geometric mean."""
  g, = grow(n=1, env=Game(words=('dcba',)),
            probes=(functools.partial(spae, before=' <', samples=2, limit=3), functools.partial(answer, before=' <')))
  for n in g.nodes:
    assert set(n.value) - {'p_answer'} == {'conf', 'acc'} and 0 < n.value['conf'] <= 1 and 0 < n.value['acc'] < 1, n.end
    if 'p_answer' in n.value:
      assert n.value['acc'] >= np.exp(n.value['p_answer']) - 1e-6
