"""Evaluation counts answers, and leaves the training run as it was."""

import json
import os
import re

import jax
import pytest

from rlx import config, session, train
from rlx import eval as evals
from rlx.types import Task
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


# ---- the command ---------------------------------------------------------------------------------------------------

TINY = 'tests/configs/tiny.py'
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def test_first_or_spread_over_the_split(monkeypatch):
  asked = []
  monkeypatch.setattr(evals.rollout, 'rollout', lambda pool, picks, **_: asked.append([t.id for t in picks]) or [])
  class Ten(Game):
    def tasks(self, split):
      return [Task(str(i), 'hello') for i in range(10)]
  for first in (False, True):
    evaluate(game.plan(env=Ten(turns=1)), prompts=4, first=first)
  assert asked == [['0', '3', '6', '9'], ['0', '1', '2', '3']]


def test_a_config_is_scored_as_it_begins(tmp_path, capsys, monkeypatch):
  """By the command and by `create`; what it samples is what the run's first parameters say, and nothing is written."""
  monkeypatch.chdir(tmp_path)
  told = str(tmp_path / 'told.json')
  config_file = os.path.join(ROOT, TINY)
  argv = ['--config', config_file, '--split', 'held', '--temperature', '0', '--prompts', '3', '--first', '--json', told, '--config.seed=5']
  assert evals.main(argv) == 0
  line, = capsys.readouterr().out.strip().splitlines()
  assert line.startswith('held greedy: accuracy 0.') and '3 episodes' in line
  c = config.load(config_file, dict(seed=5))
  run = session.create(c)
  with open(told, encoding='utf-8') as f:
    assert json.load(f)['held/0'] == pytest.approx(run.evaluate('held', prompts=3, temperature=0., first=True))
  assert os.listdir(tmp_path) == ['told.json'] and run.step == 0
  assert run.sample('1 + 1 =', seed=3) == run.sample('1 + 1 =', seed=3) != ''


def test_a_config_begins_with_another_run(tmp_path):
  c = config.load(TINY, {'workdir': str(tmp_path / 'run'), 'phases[0].steps': 1, 'phases[1].steps': 0, 'eval.splits': {}})
  train.run(c)
  begun = session.create(config.load(TINY, {'init_from': c.workdir, 'seed': 9})).world.models['policy'].params
  kept = session.load(c.workdir).world.models['policy'].params
  assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), begun, kept))


@pytest.mark.parametrize(('argv', 'message'), [
    ([], 'give --workdir the folder of a run.* or --config'), (['--workdir', 'runs/x', '--config', TINY], 'one of the two'),
    (['--workdir', 'runs/x', '--config.seed=1'], '--config.seed goes with --config'), (['--config'], '--config needs a value'),
    (['--config', TINY, '--step', '3'], '--step goes with --workdir'), (['--config', TINY, '--first', '100'], '--first takes no value'),
    (['--config', TINY, '--promts', '3'], 'unknown option --promts; there are --workdir, --config'),
    (['--config', TINY, '--split', 'dev'], "no split 'dev'"), (['--config', 'nowhere.py'], "config file 'nowhere.py' does not exist"),
    (['--config', 'configs/quickstart.py', '--config.env.path=/nowhere'], "path is for world 'spider'"),
    (['--workdir', 'nowhere'], "'nowhere' holds no run"),
])
def test_messages(capsys, argv, message):
  assert evals.main(argv) == 2
  line, = capsys.readouterr().err.strip().splitlines()
  assert line.startswith('error: ') and re.search(message, line), line
