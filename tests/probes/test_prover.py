"""The prover's value: the probability of the right answer, forced below each step, against a plain call of the policy."""

import functools

import numpy as np
import pytest

from rlx import walk
from rlx.grow import engine as engines
from rlx.probes import prover as module
from rlx.probes.prover import prover
from rlx.types import Task
from tests.grow import game
from tests.grow.game import Game, grow

LONG = Game(words=('dcbadcba', 'abdc', 'cbadcbad'))
NEVER = engines.Stop()


def by_hand(context, text, before=''):
  forced, scored = list(game.TOK.encode(before)) if before else [], list(game.TOK.encode(text))
  return game.logp_by_hand([*context, *forced, *scored])[-len(scored):]


@pytest.mark.parametrize('before', ['', ' <'])
@pytest.mark.parametrize('per, total', [('answer', np.sum), ('token', np.mean)])
def test_values_by_hand(before, per, total):
  g, = grow(game.engine(NEVER), n=1, env=LONG, probes=(functools.partial(prover, before=before, per=per),))
  assert [sorted(n.value) for n in g.nodes] == [['prover']] * 4 + [[]] * 2, 'not below a step that has ended'
  for k in range(4):
    context = [*walk.ids_before(g.nodes, k), *g.nodes[k].ids, *game.TOK.encode(' 8.')]
    assert abs(g.nodes[k].value['prover'] - np.exp(total(by_hand(context, ' 0.', before)))) < 1e-5
  assert abs(g.prompt['prover'] - np.exp(total(by_hand(g.nodes[0].context, ' 0.', before)))) < 1e-5


def test_reductions():
  logp = np.log(np.float32([.5, .125]))
  assert abs(module.chance(logp) - .0625) < 1e-6 and abs(module.geometric(logp) - .25) < 1e-6
  assert module.chance(np.zeros(1)) == 1.


def test_what_it_says():
  assert module.writes == ('value/prover', 'prompt/prover')
  view = lambda data: type('View', (), dict(task=Task('t9', data), nodes=[]))
  asked, = prover(view(dict(solution=4)), key='solution', before='<')
  assert (asked.node, asked.name, asked.suffix, asked.score_from) == (-1, 'prover', '<4', 1)
  tree = type('View', (), dict(task=Task('t9', dict(answer=4)), nodes=[type('N', (), dict(end=e)) for e in (0, 0, 1)]))
  assert [p.node for p in prover(tree)] == [-1, 0, 1] and [p.node for p in prover(tree, steps=False)] == [-1]
  with pytest.raises(ValueError, match="task 't9' has none"):
    prover(view({}))
  with pytest.raises(ValueError, match="per is 'answer' or 'token', not 'letter'"):
    prover(view(dict(answer=4)), per='letter')
