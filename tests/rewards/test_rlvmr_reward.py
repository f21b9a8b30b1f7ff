"""RLVMR's rewards of tagged steps and their tags, by hand (arXiv:2507.22844; rhyang2021/CogRouter@b9978adc)."""

import sys

import pytest

from rlx.grow import labels
from rlx.rewards.rlvmr import rlvmr
from rlx.types import Episode, Node, Task


def steps(*said, task=0.):
  """A rollout of (tags, action[, valid]); it is paid at its end, and metrics['valid'] says whether an action was one."""
  nodes = []
  for i, (tags, action, *valid) in enumerate(said):
    text = ''.join(f'<{t}> so it is </{t}>' for t in tags.split()) + f'<action> {action} </action>'
    nodes.append(Node(i - 1, '', [], i == 0, text, [], None, None, {}, metrics=dict(valid=float(not valid or valid[0])),
                      reward=dict(task=task if i == len(said) - 1 else 0.)))
  return nodes


def paid(*said, task=0.):
  nodes = steps(*said, task=task)
  verdict = rlvmr(Episode(Task('t'), nodes, range(len(nodes))))
  assert set(verdict) == {'meta'}
  return verdict['meta']


def test_it_says_what_it_writes():
  assert sys.modules[rlvmr.__module__].writes == ('reward/meta',)


@pytest.mark.parametrize('task, planned', [(1., 1.), (.2, 1.), (0., 0.), (-1., 0.)])
def test_a_plan_is_paid_by_success(task, planned):
  assert paid(('planning', 'a'), ('', 'b'), ('planning', 'c'), task=task) == [planned, 0., planned]


def test_exploring_is_paid_for_a_new_action():
  assert paid(('explore', 'a'), ('explore', 'b'), ('explore', 'a')) == [1., 1., 0.]
  assert paid(('', 'a'), ('explore', 'a')) == [0., 0.]                    # whatever the tag of the earlier one
  assert paid(('', 'a', False), ('explore', 'a')) == [0., 1.]             # but only a valid step counts as tried
  assert paid(('explore', 'a'), ('', 'a'))[0] == 1.                       # a later one does not matter


def test_reflection_is_paid_for_another_action_after_a_failed_one():
  assert paid(('', 'a', False), ('reflection', 'b')) == [0., 1.]
  assert paid(('', 'a', False), ('reflection', 'a')) == [0., 0.]          # the same again
  assert paid(('', 'a'), ('reflection', 'b')) == [0., 0.]                 # nothing had failed
  assert paid(('', 'a', False), ('', 'b'), ('reflection', 'c')) == [0., 0., 0.]      # only the step before counts
  assert paid(('reflection', 'a')) == [1.]                                # the first step counts as behind a failed one


def test_invalid_steps_monitoring_and_silence_get_nothing():
  assert paid(('planning', 'a', False), ('explore', 'b', False), ('reflection', 'c', False), task=1.) == [0., 0., 0.]
  assert paid(('monitor', 'a'), ('', 'b'), task=1.) == [0., 0.]


def test_planning_before_exploring_before_reflection():
  both = [('explore planning', 'a'), ('reflection explore', 'b'), ('reflection planning', 'c')]
  assert paid(*both, task=1.) == [1., 1., 1.]
  assert paid(*both) == [0., 1., 0.]
  assert paid(('', 'b'), ('', 'a', False), ('reflection explore', 'b')) == [0., 0., 0.]      # tried: and not as a reflection


def test_tags():
  nodes = steps(('planning', 'a'), ('explore', 'a'), ('reflection', 'a'), ('', 'a'), ('explore planning', 'b'),
                ('reflection explore', 'b'), ('reflection', 'b'), ('', 'b'), ('planning', 'c', False), ('explore', 'c', False))
  got = labels.tagged(nodes)
  plan, explore, reflection, none = got[:4]
  assert got[4:] == [plan, explore, reflection, none, none, none]         # an invalid step has no tag
  assert len({plan, explore, reflection, none}) == 4
  assert labels.tagged(steps(('monitor', 'a')))[0] not in {plan, explore, reflection}


def test_tags_by_name():
  nodes = steps(('b a', 'x'), ('a', 'x'), ('b', 'x'), ('planning', 'x'))
  first, a, b, none = labels.tagged(nodes, tags=('a', 'b'))
  assert first == a and len({a, b, none}) == 3
  assert labels.tagged(nodes, tags=('b', 'a'))[0] == b                    # what is named first comes first


def test_what_the_paper_and_other_environments_add():
  nodes = steps(('planning', 'a'), ('', 'b'), ('monitor', 'c'), ('reflection', 'd'), ('planning', 'e', False))
  nodes[2].metrics['available'] = 0.                 # well formed, but it could not be done: the next one may reflect on it
  amounts = dict(planning=2., reflection=3., penalty=-.1)
  pay = lambda **kw: rlvmr(Episode(Task('t'), nodes, range(5)), **amounts, **kw)['meta']
  assert pay() == [0., -.1, 0., 3., -.1]
  nodes[4].reward['task'] = None                     # no outcome yet: no verdict on plans
  assert pay() == [None, -.1, 0., 3., -.1]
  assert pay(available='other') == [None, -.1, 0., 0., -.1]
  nodes[4].reward['score'] = 1.
  assert pay(channel='score') == [2., -.1, 0., 3., -.1]


def test_actions_without_a_tag():
  nodes = steps(('explore', 'a'), ('explore', 'b'), ('explore planning', 'a'))
  for n, action in zip(nodes, 'aba'):
    n.text = f'<explore>{id(n)}</explore> {action}'
  assert rlvmr(Episode(Task('t'), nodes, range(3)), action=None)['meta'] == [1., 1., 0.]
