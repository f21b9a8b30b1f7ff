"""SCOPE's reward for test-time training (arXiv:2512.15146; szu-tera/SCOPE@0c45ca79): the vote and the choice of a size.

`vote(answers, confidence)` and `choose(rho, delta, balance)` are the pure parts; what is drawn at random is not compared.
"""

import inspect
import itertools
import math
import random

import numpy as np
import pytest

from rlx.rewards import scope_ttrl as module
from rlx.types import Episode, Node, Task

scope_ttrl = module.scope_ttrl


@pytest.mark.parametrize('answers, confidence, expected', [
    (['a', 'a', 'b'], [1., 1., 1.], 'a'), (['a', 'a', 'b'], [1., 1., 2.5], 'b'), (['a', 'b', 'a'], [1., 2.25, 1.5], 'a'),
    (['a', 'b'], [1., 1.], 'a'),                         # a tie: first seen
    ([None, 'a', 'b'], [5., 1., 2.], 'b'),               # the released zip gives a the 5 of the missing answer, and drops the 2
    (['a', None, 'b', 'c'], [1., 9., 2., 3.], 'c'), ([None, None], [1., 1.], None)])
def test_a_vote_weighted_by_confidence(answers, confidence, expected):
  assert module.vote(answers, confidence) == expected


def choose_twin(rho, delta, balance):
  better = lambda i, j: rho[i] >= rho[j] and delta[i] >= delta[j] and (rho[i] > rho[j] or delta[i] > delta[j])
  front = [j for j in range(len(rho)) if not any(better(i, j) for i in range(len(rho)))]
  scale = lambda x, i: (x[i] - min(x[j] for j in front)) / (max(x[j] for j in front) - min(x[j] for j in front) + 1e-8)
  return min(front, key=lambda i: math.sqrt(balance * (1 - scale(rho, i)) ** 2 + (1 - balance) * (1 - scale(delta, i)) ** 2))


@pytest.mark.parametrize('rho, delta, expected', [
    ([.9, .6, .3], [1., 2., 4.], 0),                     # distances .5477 .5553 .8367
    ([.9, .8, .3], [1., 3., 4.], 1),                     # .5477 .2297 .8367
    ([.5, .9, .7], [1., 3., 2.], 1),                     # the others are dominated
    # 2 is dominated by 1; were its 0 on the scale of rho, 1 would win with .4595 against .5477
    ([.9, .6, .0, .3], [1., 2., 1.5, 4.], 0)])
def test_the_size_on_the_pareto_front(rho, delta, expected):
  assert choose_twin(rho, delta, .7) == expected
  assert module.choose(rho, delta, .7) == expected


def test_choose_twin():
  for seed in range(50):
    rng = random.Random(seed)
    rho, delta = ([rng.random() for _ in range(5)] for _ in range(2))
    balance = rng.choice([.3, .7, 1.])
    assert module.choose(rho, delta, balance) == choose_twin(rho, delta, balance)


def said(answer):
  node = lambda i, text: Node(i - 1, '', [], i == 0, text, [3, 4], np.ones(2, bool), np.full(2, -1., np.float32),
                              {k: np.full(2, .5, np.float32) for k in ('entropy', 'confidence', 'topk_logp')})
  texts = ['look', 'nothing' if answer is None else f'<answer>{answer}</answer>']
  return Episode(Task('t'), [node(i, text) for i, text in enumerate(texts)], range(2))


def paid(answers, **kw):
  """The function itself, or the first update of a `Stateful`."""
  kw, episodes = dict(answer='answer') | kw, [said(a) for a in answers]
  if all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(scope_ttrl).parameters.values()):
    made = scope_ttrl(**kw)
    verdicts = made.update(made.init(), episodes)[1]
  else:
    verdicts = scope_ttrl(episodes, **kw)
  assert all(set(v) == {'task'} and not v['task'][0] for v in verdicts)
  return [v['task'][-1] for v in verdicts]


def test_what_it_is():
  # 'vote' is for environments that pay 'task' themselves
  assert scope_ttrl.grain == 'group' and tuple(module.writes) == ('reward/task', 'reward/vote')


def test_where_everybody_votes_in_every_subgroup_it_is_the_majority():
  """Equal confidences, no more rollouts than votes of a subgroup: every subgroup has the label of the whole, whatever its size."""
  for answers in itertools.product('ab', repeat=4):
    votes = [answers.count('a'), answers.count('b')]
    if votes[0] != votes[1]:
      assert paid(answers) == [float(a == 'ab'[votes[1] > votes[0]]) for a in answers]
  assert paid(['a', None, 'a', 'b']) == [1, 0, 1, 0]
