"""Finished prompts to numbers, on trees: shared steps, dead ends, missing verdicts, backstops."""

import pytest

from rlx.show.summary import summarise
from tests.trees import group, step


def fork():
  """Three episodes (0-1, 0-2, 3), a failed one (4), an abandoned branch (5), and what the environment said."""
  return group([
      step(-1, [1], reward=dict(task=.25), metrics=dict(valid=1., explored=1.)),
      step(0, [2], end=1, reward=dict(task=.5, style=1.), metrics=dict(valid=1., correct=1.)),
      step(0, [3], end=2, reward=dict(task=None, style=3.), metrics=dict(valid=0.)),
      step(-1, [4], end=1, reward=dict(task=0.), metrics=dict(valid=1., correct=0.)),
      step(-1, [5], end=3, reward=dict(task=9.), metrics=dict(backstop=1., valid=0.)),
      step(-1, [6], reward=dict(task=9., unseen=1.), metrics=dict(valid=1.))], metrics=dict(full=1., windowed=2.))


def test_a_tree():
  got = summarise([fork()])
  assert got == pytest.approx({
      'reward/task': (.75 + .25 + 0) / 3, 'reward/style': 4 / 3, 'success': 1 / 3, 'zero_variance': 0., 'turns': 5 / 3, 'cut_off': 1 / 4,
      'failed': 1 / 4, 'episodes': 3., 'backstops': 1., 'valid_action': 4 / 5, 'env/explored': 2 / 3, 'grow/full': 1., 'grow/windowed': 2.})


def test_success_without_the_environments_word():
  """The share of returns above 0.5 on the channel that is asked for."""
  g = group([step(-1, [1], reward=dict(task=.4)), step(0, [2], end=1, reward=dict(task=.2)),
             step(-1, [3], end=1, reward=dict(task=.5, other=1.))])
  assert summarise([g])['success'] == .5 and summarise([g], 'other')['success'] == .5
  assert 'success' not in summarise([g], 'nowhere') and 'valid_action' not in summarise([g])


def test_prompts_whose_returns_are_all_equal():
  """Equal ones, one alone, and none at all; a failed episode is no return."""
  of = lambda *task: group([step(-1, [1], end=1, reward=dict(task=t)) for t in task])
  failed = group([step(-1, [1], end=1, reward=dict(task=1.)), step(-1, [1], end=3, reward=dict(task=0.))])
  assert summarise([of(1., 0.), of(1., 1.), of(0., 0., 1.), of(1.)])['zero_variance'] == .5
  assert summarise([failed])['zero_variance'] == 1 and summarise([of()])['zero_variance'] == 1


def test_backstops_are_counted_where_they_end_an_episode():
  """They end it as failed, which is no episode that gets credit; a shared step is counted once."""
  g = group([step(-1, [1], metrics=dict(backstop=1.)), step(0, [2], end=1), step(0, [3], end=1), step(0, [5], end=2),
             step(-1, [4], end=3, metrics=dict(backstop=1.))])
  got = summarise([g, g])
  assert got['backstops'] == 4 and 'env/backstop' not in got and got['failed'] == 1 / 4


def test_several_prompts_are_one_mean():
  a, b = group([step(-1, [1], end=1, reward=dict(task=1.))], metrics=dict(full=1.)), fork()
  assert summarise([a, b])['reward/task'] == pytest.approx((1 + 1.) / 4) and summarise([a, b])['grow/full'] == 2


def test_nothing_ended():
  for groups in ([], [group([])], [group([step(-1, [1])])]):
    got = summarise(groups)
    assert got['episodes'] == got['turns'] == got['failed'] == 0 and got['zero_variance'] == 1 and 'success' not in got
