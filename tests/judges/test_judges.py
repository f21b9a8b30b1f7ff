"""Scripted judges, the policy as a judge, and how a reward gets one."""

import asyncio
import contextlib

import numpy as np
import pytest

from rlx import assemble, config
from rlx.grow import engine as engines
from rlx.judges.policy import policy
from rlx.judges.scripted import scripted
from tests.grow import game
from tests.grow.game import grow


def test_the_first_rule_that_fits():
  judge = scripted(rules={r'2 \+ 2.*4': 'Yes', r'2 \+ 2': 'No', 'hush': None}, otherwise='?')
  assert [asyncio.run(judge(p)) for p in ('2 + 2\n= 4', '2 + 2 = 5', 'hush', 'who?')] == ['Yes', 'No', None, '?']


async def asks(episode, *, judge, suffix=''):
  """A reward that asks about its episode and pays the length of the answer."""
  said = await judge(episode.nodes[0].text[:2] + suffix)
  return dict(verdict=[0.] * (len(episode.nodes) - 1) + [None if said is None else float(len(said))])


asks.writes = ('reward/verdict',)


def bound(judge, **kw):
  return assemble._bound(config.build('reward', dict(name=asks, judge=judge, **kw)))


def test_a_reward_is_given_its_judge():
  groups = grow(n=1, rewards=(bound(dict(name='scripted', otherwise='abc')),))
  assert [n.reward['verdict'] for n in groups[0].nodes if n.end] == [3.] * sum(n.end > 0 for n in groups[0].nodes)
  with pytest.raises(config.ConfigError, match="judge 'http' needs model, url"):
    bound('http')
  with pytest.raises(config.ConfigError, match="the judge .*url must begin|url must begin"):
    bound(dict(name='http', url='x', model='m'))


def test_the_policy_judges_itself():
  """Greedy, so the same whatever else is asked: the answer is what the model says behind the prompt, by hand."""
  heard = {}
  async def listens(episode, *, judge):
    prompt = episode.nodes[0].text[:2]
    heard[prompt] = await judge(prompt)
    return dict(verdict=[0.] * len(episode.nodes))
  fn = assemble._bound(config.build('reward', dict(name=listens, judge=dict(name='policy', limit=4))))
  e = game.engine(engines.Stop(), slots=4, buckets=())
  grow(e, n=3, rewards=(fn,))
  assert len(heard) > 2 and engines.vacant(e) == 4
  for prompt, answer in heard.items():
    ids = list(game.TOK.encode(prompt))
    for _ in range(4):
      ids.append(int(np.argmax(game.logits_by_hand(ids)[-1])))
    assert answer == game.TOK.decode(ids[-4:])


def test_the_policy_is_only_asked_where_it_is_served():
  judge = policy()
  with pytest.raises(RuntimeError, match='must be the keyword `judge` of a reward'):
    asyncio.run(judge('x'))


def test_who_waits_no_longer_is_not_answered():
  async def hurries(episode, *, judge):
    with contextlib.suppress(TimeoutError):
      await asyncio.wait_for(judge(episode.nodes[0].text), .001)
    return dict(verdict=[0.] * len(episode.nodes))
  fn = assemble._bound(config.build('reward', dict(name=hurries, judge=dict(name='policy', limit=4))))
  groups = grow(game.engine(engines.Stop(), slots=4, buckets=()), n=2, rewards=(fn,))
  assert all(n.reward['verdict'] == 0 for g in groups for n in g.nodes if n.end)


def test_what_does_not_fit_has_no_answer():
  groups = grow(game.engine(engines.Stop()), n=1, rewards=(bound(dict(name='policy', limit=4), suffix='dc' * 250),))
  assert all(n.reward['verdict'] is None for n in groups[0].nodes if n.end)
