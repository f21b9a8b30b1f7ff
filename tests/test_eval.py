"""Evaluation counts answers, and leaves the training run as it was."""

import pytest

from rlx import eval as evals
from tests.grow import game
from tests.grow.game import Game


def evaluate(plan, **kw):
  return evals.evaluate({'policy': game.engine()}, plan, **{**dict(split='test', prompts=3, temperature=1., key=game.KEY), **kw})


class Talkative(Game):
  """Its metrics have the names of other numbers."""

  def step(self, state, action):
    state, step = super().step(state, action)
    return state, step._replace(metrics=dict(accuracy=5., accuracy_low=5., turns=5., failed=5., words=5.))


def test_metrics_of_an_environment_replace_no_other_number():
  plain, seen = (evaluate(game.plan(env=env(turns=2)), samples=2) for env in (Game, Talkative))
  assert seen['turns'] == 2. and seen['episodes'] == 6. and seen['failed'] == 0.
  assert seen == {**plain, 'words': 10., **{f'env/{k}': 10. for k in ('accuracy', 'accuracy_low', 'turns', 'failed')}}


@pytest.mark.parametrize('fails', [False, True])
def test_rewards_keep_the_memory_of_the_training_run(fails):
  def count(episode):
    count.state['seen'].append(episode.task.id)          # in place, and a new one
    count.state = {**count.state, 'n': count.state['n'] + 1}
    if fails and count.state['n'] == 4:
      raise ZeroDivisionError
    return {'n': [float(count.state['n'])] * len(episode.steps)}
  count.state = dict(n=1, seen=['a'])
  plan = game.plan(env=Game(turns=1), rewards=(count, lambda episode: {}))
  if fails:
    with pytest.raises(ZeroDivisionError):
      evaluate(plan)
  else:
    assert evaluate(plan)['reward/n'] == 3., 'it begins with the memory the run has: 2, 3, 4'
  assert count.state == dict(n=1, seen=['a'])
