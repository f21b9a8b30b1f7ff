"""SPAE's probes (arXiv:2601.03823): how sure and how right an answer given now would be."""

import functools

import numpy as np
import pytest

from rlx.probes import spae as module
from rlx.probes.answer import answer
from rlx.types import Task
from tests.grow.game import Game, grow

spae = module.spae
SUFFIX = '**Final Answer**\n\\boxed{'
VIEW = lambda data: type('View', (), dict(task=Task('t7', data), nodes=[type('N', (), dict(end=e)) for e in (0, 0, 1, 0, 2)]))


def by_name(**mode):
  found = {}
  for p in spae(VIEW(dict(answer='42')), **mode):
    found.setdefault(p.name, []).append(p)
  return found


def test_what_is_asked_and_where():
  found = by_name()
  assert set(found) == {'conf', 'acc'} and {'value/conf', 'value/acc'} <= set(module.writes)
  for probes in found.values():
    nodes = [p.node for p in probes]
    assert len(set(nodes)) == len(nodes) and {0, 1, 3} <= set(nodes), 'once below every step that goes on'
  for p in found['conf']:                # N = 5 continuations of at most 10 tokens
    assert (p.suffix, p.samples, p.limit) == (SUFFIX, 5, 10)
  for p in found['acc']:                 # the right answer, forced
    assert (p.suffix, p.score_from, p.samples) == (SUFFIX + '42', len(SUFFIX), 0)


def test_reductions():
  logp, entropy = np.log([.5, .25, .75]), np.array([.2, .4, .9])
  conf, acc = (by_name()[k][0].reduce for k in ('conf', 'acc'))
  assert conf(logp, entropy) == pytest.approx(np.exp(-.5))                   # exp(-mean H)
  assert acc(logp, None) == pytest.approx(.5)                                # mean of pi(y*_m)
  # cii030/SPAE-RL@ed529f8a inference/probe_mechanism_example.py: first the sum, then exp, then over the length
  conf, acc = (by_name(mode='released')[k][0].reduce for k in ('conf', 'acc'))
  assert conf(logp, entropy) == pytest.approx(np.exp(-1.5) / 3)
  assert acc(logp, None) == pytest.approx(.5 * .25 * .75 / 3)


def test_faults():
  with pytest.raises(ValueError, match='t7'):
    spae(VIEW({}))
  with pytest.raises(ValueError):
    by_name(mode='other')


def test_failed_steps_are_not_asked_and_ended_ones_are():
  view = type('View', (), dict(task=Task('t', dict(sql='q')), nodes=[type('N', (), dict(end=e)) for e in (0, 3, 1, 2)]))
  got = module.spae(view, key='sql', before='<a>', samples=3, limit=7)
  assert [(p.name, p.node, p.suffix, p.score_from, p.samples, p.limit) for p in got[:3]] == [('conf', i, '<a>', 3, 3, 7) for i in (0, 2, 3)]
  assert [(p.name, p.node, p.suffix) for p in got[3:]] == [('acc', i, '<a>q') for i in (0, 2, 3)]


def test_on_the_engine():
  """Every step has both, the last one too; the mean of the answer's probabilities is at least their geometric mean."""
  g, = grow(n=1, env=Game(words=('dcba',)),
             probes=(functools.partial(module.spae, before=' <', samples=2, limit=3), functools.partial(answer, before=' <')))
  for n in g.nodes:
    assert set(n.value) - {'p_answer'} == {'conf', 'acc'} and 0 < n.value['conf'] <= 1 and 0 < n.value['acc'] < 1, n.end
    if 'p_answer' in n.value:
      assert n.value['acc'] >= np.exp(n.value['p_answer']) - 1e-6
