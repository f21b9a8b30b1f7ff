"""Rewards for tagged meta-reasoning, by hand: every rule is ours."""

import sys

import pytest

from rlx.rewards.meta_reasoning import meta_reasoning
from rlx.types import Episode, Node, Task


def paid(*said, task=1., **how):
  """An episode of (what is observed, tag, action)."""
  nodes = []
  for i, (obs, tag, action) in enumerate(said):
    text = (f'<{tag}> so it is </{tag}>' if tag else '') + action
    nodes.append(Node(i - 1, obs, [], i == 0, text, [], None, None, {}, reward=dict(task=task if i == len(said) - 1 else 0.)))
  verdict = meta_reasoning(Episode(Task('t'), nodes, range(len(nodes))), **how)
  assert set(verdict) == {'meta'}
  return verdict['meta']


def test_it_says_what_it_writes():
  assert sys.modules[meta_reasoning.__module__].writes == ('reward/meta',) and meta_reasoning.grain == 'episode'


@pytest.mark.parametrize('task, planned', [(1., 1.), (0., 0.), (None, None)])
def test_a_plan_is_paid_by_success(task, planned):
  assert paid(('a', 'plan', 'x'), ('b', '', 'y'), task=task) == [planned, 0.]


def test_exploring_is_paid_for_news():
  # b is new, a was there before, c is new, and behind the end nothing is seen
  assert paid(('a', 'explore', 'x'), ('b', 'explore', 'x'), ('a', 'explore', 'x'), ('c', 'explore', 'x')) == [1., 0., 1., 0.]


def test_reflecting_is_paid_where_nothing_new_was_seen_and_something_else_is_said():
  assert paid(('a', 'reflect', 'x'), ('a', 'reflect', 'y'), ('a', 'reflect', 'y'), ('b', 'reflect', 'z')) == [0., 1., 0., 0.]
  assert paid(('a', '', 'x'), ('a', 'reflect', 'x')) == [0., 0.]        # the words in the tag are not what is done


def test_the_first_tag_counts_and_what_it_is_paid():
  assert paid(('a', 'plan', '<explore>x</explore>'), ('a', '', 'y')) == [1., 0.]
  assert paid(('a', 'plan', 'x'), ('a', 'reflect', 'y'), pay=dict(plan=.5)) == [.5, 0.]
  with pytest.raises(ValueError, match="the tag 'think'"):
    paid(('a', '', 'x'), pay=dict(think=1.))
