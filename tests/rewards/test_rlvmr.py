"""The reward of RLVMR (arXiv:2507.22844): hand examples of each rule."""

import pytest

from rlx.rewards import rlvmr as module
from rlx.types import Episode, Node, Task


def paid(*steps, outcome=1., **kw):
  """Steps are texts, or (text, metrics)."""
  nodes = []
  for i, step in enumerate(steps):
    text, metrics = (step, {}) if isinstance(step, str) else step
    nodes.append(Node(i - 1, '', [], i == 0, text, [], None, None, {}, metrics=metrics))
  nodes[-1].reward['task'] = outcome
  return module.rlvmr(Episode(Task('t'), nodes, range(len(nodes))), **kw)['meta']


def say(tag, action, text=''):
  return f'<{tag}>{text}</{tag}><action>{action}</action>'


BAD = dict(valid=0.)


def test_what_it_says_it_is():
  assert module.rlvmr.grain == 'episode' and module.writes == ('reward/meta',)
  assert set(module.rlvmr(Episode(Task('t'), [Node(-1, '', [], True, 'x', [], None, None, {})], [0]))) == {'meta'}


@pytest.mark.parametrize('outcome, expected', [
    (1., [2, 0, 2]), (.1, [2, 0, 2]), (0., [0] * 3), (-1., [0] * 3), (None, [None, 0, None])])
def test_plans_are_paid_by_success(outcome, expected):
  assert paid(say('planning', 'a'), say('monitor', 'b'), say('planning', 'c'), outcome=outcome, planning=2.) == expected


def test_exploring_is_an_action_that_no_valid_step_took():
  assert paid(say('explore', 'a'), say('explore', 'b', 'x'), say('explore', 'a', 'y'), say('explore', 'A')) == [1, 1, 0, 1]
  assert paid((say('explore', 'a'), BAD), say('explore', 'a')) == [0, 1]        # an invalid step took none, and is paid none
  assert paid(say('planning', 'a'), say('explore', 'a'), outcome=0.) == [0, 0]
  assert paid('<explore> x </explore> go', '<explore> y </explore> go', action=None) == [1, 0]


def test_reflecting_is_another_action_after_a_failed_one():
  assert paid(say('reflection', 'a'), say('reflection', 'b')) == [1, 0]         # nothing before counts as failed
  assert paid((say('explore', 'a'), BAD), say('reflection', 'b')) == [0, 1]
  assert paid((say('explore', 'a'), BAD), say('reflection', 'a')) == [0, 0]
  assert paid((say('explore', 'a'), dict(available=0.)), say('reflection', 'b'), explore=.5, reflection=3.) == [.5, 3]


def test_the_first_tag_counts_and_the_penalty_is_for_none():
  both = '<explore></explore><planning></planning><action>a</action>'
  assert paid(both, both, outcome=0.) == [0, 0] and paid(both, explore=5.) == [1]
  assert paid('<action>a</action>', (say('planning', 'b'), BAD), say('monitor', 'c'), penalty=-.1) == [-.1, -.1, 0]
