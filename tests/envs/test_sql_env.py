"""The sql environment: the protocol in both worlds, and world `hidden_names` by hand."""

import collections
import json
import pickle
import re

import pytest
from sql_play import accuracy, expert, play

from rlx.envs import _sql_hidden, sql_sandbox
from rlx.envs import sql as sql_module
from rlx.envs.sql import sql
from rlx.types import Action, Episode, Node

WORLDS = ('hidden_names', 'four_acts')


# ---- protocol ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('world', WORLDS)
def test_states_are_values(envs, world):
  """An episode may be left at any step, pickled, and taken up twice; no state is changed by stepping from it."""
  env = envs[world]
  for i in range(60):
    task = env.tasks('train')[i]
    _, states, actions, steps = play(env, task, env.expert(task, i))
    kept = [pickle.dumps(s) for s in states]
    for k, (state, said, step) in enumerate(zip(states, actions, steps)):
      for copy in (pickle.loads(kept[k]), state):
        after, again = env.step(copy, Action(said))
        assert after == states[k + 1] and again == step
    assert [pickle.dumps(s) for s in states] == kept
    assert pickle.loads(pickle.dumps(task)) == task and pickle.loads(pickle.dumps(env)) == env


@pytest.mark.parametrize('world', WORLDS)
def test_an_ended_episode_cannot_go_on(envs, world):
  env = envs[world]
  _, states, actions, _ = play(env, env.tasks('train')[0], env.expert(env.tasks('train')[0], 0))
  with pytest.raises(ValueError, match='is over'):
    env.step(states[-1], Action(actions[-1]))


@pytest.mark.parametrize('world', WORLDS)
def test_columns_are_the_ones_it_says_it_writes(envs, world):
  env = envs[world]
  seen = set()
  for i in range(100):
    task = env.tasks('train')[i]
    first, _, _, steps = play(env, task, env.expert(task, 0))
    seen |= {f'label/{k}' for k in first.label}
    for s in steps:
      seen |= {f'reward/{k}' for k in s.reward} | {f'label/{k}' for k in [*s.label, *s.next]}
      assert all(isinstance(v, float) for v in [*s.reward.values(), *s.metrics.values()])
      assert s.label['next'] == ' '.join(s.obs.split()) and s.next == ({} if s.end else {'state': s.label['next']})
      hash(tuple(s.label.values()))
    assert first.label == {'state': ' '.join(first.text.split())}
  assert seen == set(env.writes) and seen <= set(sql_module.writes)


def test_cut_and_score(hidden, four):
  task = hidden.tasks('train')[0]
  state, _ = hidden.reset(task, 0)
  assert hidden.cut(state).reward == {'task': -0.1} and hidden.cut(state).end == 2
  fresh, _ = four.reset(four.tasks('train')[0], 0)
  assert four.cut(fresh).reward == dict(task=0., answer=0., format=0., schema=0.)
  node = lambda **metrics: Node(-1, '', [], True, '', [], None, None, {}, metrics=metrics)
  score = lambda *nodes: hidden.score(task, Episode(task, nodes, range(len(nodes))))
  assert score(node(explored=1., valid=1.), node(explored=0., correct=1.)) == dict(accuracy=1., explored=1.)
  assert score(node(explored=0.)) == dict(accuracy=0., explored=0.)


@pytest.mark.parametrize('wrong, message', [
    (dict(world='hidden'), "world 'hidden' is not one of"), (dict(schema='exact'), "schema 'exact' is not one of"),
    (dict(questions=0), 'at least 1'), (dict(synonyms=4), 'synonyms is 1, 2 or 3'),
    (dict(mix={'clever': 1.}), "has no experts .'clever'"),
])
def test_bad_arguments(wrong, message):
  with pytest.raises(ValueError, match=message):
    sql(**wrong)


def test_bad_split(hidden):
  with pytest.raises(ValueError, match="split 'test' is not one of"):
    hidden.tasks('test')


# ---- hidden_names --------------------------------------------------------------------------------------------------

def test_an_episode_by_hand(shop):
  first, states, _, steps = play(sql(), shop, [
      '<explore> tables </explore>', ' <explore> goods </explore>', '<explore> staff </explore>',
      "<sql> SELECT title , cost FROM goods WHERE town = 'rome' </sql>",
      "<sql> SELECT title FROM goods WHERE town = 'rome' </sql>", '<answer> ok </answer>'])
  assert first.text == "db7 : list the name of products with city 'rome'"
  assert [s.obs for s in steps] == [
      '<obs> tables goods staff </obs>', '<obs> columns id title town cost </obs>', '<obs> columns id odd name </obs>',
      '<obs> ok 2 rows first raven , 20 </obs>', '<obs> ok 2 rows first raven </obs>', '']
  assert [s.end for s in steps] == [0, 0, 0, 0, 0, 1] and [dict(s.reward) for s in steps] == [{}] * 5 + [{'task': 1.}]
  assert [s.label['schema'] for s in steps] == [1, 1, 1, 0, 0, 0]
  assert steps[1].label == dict(action='<explore> goods </explore>', next='<obs> columns id title town cost </obs>', schema=1)
  assert steps[0].metrics == dict(valid=1., explored=1.) and steps[-1].metrics == dict(valid=1., explored=0., correct=1.)
  assert [s.turn for s in states] == list(range(7)) and states[-1].sql == "SELECT title FROM goods WHERE town = 'rome'"


@pytest.mark.parametrize('said, obs', [
    ('<explore> nothing </explore>', 'error no such table'), ('<sql> SELECT x FROM goods </sql>', 'error no such column: x'),
    ('<sql> SELECT cost FROM shops </sql>', 'error no such table: shops'), ('<sql> SELEC cost </sql>', 'error syntax'),
    ('<sql>  </sql>', 'error syntax'), ('<sql> DROP TABLE goods </sql>', 'error syntax'),
    ('<sql> SELECT cost FROM goods WHERE id = 9 </sql>', 'ok 0 rows'),
    ('<sql> SELECT AVG( cost ) FROM goods </sql>', 'ok 1 rows first 35.0'),
    ('<sql> SELECT AVG( cost / 3.0 ) FROM goods </sql>', 'ok 1 rows first 11.7'),
    ('<sql> SELECT NULL </sql>', 'ok 1 rows first NULL'), ('<sql> SELECT 1 , 2 , 3 </sql>', 'ok 1 rows first 1 , 2'),
    ("<sql> SELECT '</obs> <answer> a\nb' </sql>", 'ok 1 rows first (/obs> (answer> a b'),
])
def test_observations(shop, said, obs):
  _, step = sql().step(sql().reset(shop, 0)[0], Action(said))
  assert step.obs == f'<obs> {obs} </obs>' and step.end == 0


@pytest.mark.parametrize('texts, reward, metrics', [
    (['<answer> ok </answer>'], -0.1, dict(valid=1., correct=0.)),   # nothing to confirm
    (['<sql> SELECT title FROM goods </sql>', '<answer> ok </answer>'], 0., dict(valid=1., correct=0.)),
    (['<sql> SELECT id FROM nothing </sql>', '<answer> ok </answer>'], 0., dict(valid=1., correct=0.)),
    (["<sql> SELECT 'moss' UNION SELECT 'raven' </sql>", '<answer> </answer>'], 1., dict(valid=1., correct=1.)),  # the rows count
    (['<sql> SELECT title FROM goods </answer>'], -0.1, dict(valid=0., correct=0.)),
    (['SELECT title FROM goods'], -0.1, dict(valid=0., correct=0.)), ([''], -0.1, dict(valid=0., correct=0.)),
    (['<explore> tables </explore>'] * 6, -0.1, dict(valid=1., correct=0., out_of_turns=1.)),
])
def test_ends(shop, texts, reward, metrics):
  _, _, _, steps = play(sql(), shop, texts)
  last = steps[-1]
  assert len(steps) == len(texts) and last.end == 1 and last.reward == {'task': reward} and last.obs == ''
  assert {k: last.metrics.get(k) for k in metrics} == metrics and ('out_of_turns' in last.metrics) == ('out_of_turns' in metrics)


def test_the_order_of_rows_counts_where_the_gold_query_orders(shop):
  gold = 'SELECT title FROM goods ORDER BY cost DESC LIMIT 2'
  task = shop._replace(data=shop.data._replace(sql=gold))
  some = 'SELECT title FROM goods WHERE cost > 30 ORDER BY'
  for query, right in ((gold, 1.), (f'{some} cost', 0.), (f'{some} id DESC', 1.)):
    assert play(sql(), task, [f'<sql> {query} </sql>', '<answer> ok </answer>'])[3][-1].reward == {'task': right}


@pytest.mark.parametrize('world, tag, end', [('hidden_names', 'sql', 'answer'), ('four_acts', 'generate_sql', 'confirm_answer')])
def test_the_backstop_ends_an_episode_without_credit(shop, world, tag, end):
  env = sql(world=world, seconds=0., vm_steps=10**9)
  slow = '<{0}> WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT( * ) FROM c </{0}>'.format(tag)
  before = ['<propose_schema> goods </propose_schema>'] if world == 'four_acts' else []
  for texts in (before + [slow], before + [f'<{tag}> SELECT 1 </{tag}>', f'<{end}> ok </{end}>']):
    task = shop._replace(data=shop.data._replace(sql='SELECT COUNT( * ) FROM goods a , goods b , goods c , goods d'))
    last = play(env, task, texts)[3][-1]
    assert last.end == 3 and last.reward == {} and last.metrics['backstop'] == 1. and 'correct' not in last.metrics


def test_demonstrations_are_as_noisy_as_the_recipe_wants(hidden):
  """The figures the quickstart was tuned on: 0.42 of the demonstrations right, 13 to 19 % of literal, 1 % of sloppy ones."""
  tasks = hidden.tasks('train')[:1500]
  assert 0.39 <= accuracy(hidden, tasks) <= 0.45
  assert 0.13 <= accuracy(hidden, tasks, 'skip') <= 0.20
  assert accuracy(hidden, tasks[:300], 'careful') == 1.
  assert 0.97 <= accuracy(hidden, tasks[:300], 'retry')   # a guess may run and be wrong
  assert accuracy(hidden, tasks[:600], 'sloppy') <= 0.03


def test_shares_of_experts(hidden):
  kinds = collections.Counter()
  for task in hidden.tasks('train')[:1500]:
    first = next(hidden.expert(task, 0))
    kinds['explores' if first.startswith('<explore>') else 'guesses'] += 1
  assert abs(kinds['guesses'] / 1500 - 0.62) < 0.04
  only = sql(root=hidden.root, mix=(('careful', 1.),))
  assert all(next(only.expert(t, 0)) == '<explore> tables </explore>' for t in only.tasks('train')[:50])


def test_every_identifier_stands_behind_one_space(hidden):
  """So that each name can be one token."""
  names = {n for group in _sql_hidden.NAMES.values() for n in group[:2]}
  every = [n for group in _sql_hidden.NAMES.values() for n in group]
  assert len(names) == 50 and len(every) == len(set(every)) == 75
  for i in range(200):
    task = hidden.tasks('train')[i]
    first, _, actions, steps = play(hidden, task, expert(hidden, task, 'careful'))
    for text in [first.text, *actions, *(s.obs for s in steps)]:
      assert '  ' not in text and not re.search(r'[(,=](?! )|(?<! )[),=]', text), text
      for word in re.findall(r'[a-z]+', re.sub(r"'[a-z]+'", '', text)):
        if word in names:
          assert f' {word} ' in f'{text} ', text


def test_families_and_answers(hidden):
  """All nine families occur alike, and the data leaves no ties: a gold order is the only one."""
  questions = [t.data for t in hidden.tasks('train')[:2000]]
  counts = collections.Counter(q.family for q in questions)
  assert set(counts) == set(_sql_hidden.FAMILIES) and min(counts.values()) > 2000 / 9 * 0.7
  for q in questions[:400]:
    result = sql_sandbox.execute(q.path, q.sql)
    assert result.rows, (q, result)
    if q.family in ('argmax', 'top'):
      assert len(set(sql_sandbox.execute(q.path, f'SELECT {q.names[2]} FROM {q.names[0]}').rows)) >= 14


def test_episodes_can_be_kept_as_text(hidden):
  """What is said and seen is text that JSON takes."""
  task = hidden.tasks('train')[0]
  _, _, actions, steps = play(hidden, task, hidden.expert(task, 0))
  assert json.loads(json.dumps([[a, s.obs, dict(s.reward), dict(s.metrics)] for a, s in zip(actions, steps)]))
