"""A user's own data: what it reads, what it refuses and how, what it pays."""

import gzip
import json
import logging
import lzma
import math
import pathlib
import pickle
import re

import pytest

from rlx.envs.jsonl import jsonl
from rlx.rewards.exact import exact
from rlx.types import Action, Episode, Node

ROWS = [dict(prompt=f'What is {i} + {i}?', answer=str(2 * i), level=i % 3) for i in range(200)]


def paid(prompt, answer, row):
  """1 for the right number; longer answers at level 2 are worth more."""
  assert prompt == row['prompt']
  return (1. + row['level']) * (answer.strip() == row['answer'])


def write(path, rows):
  opener = {'.gz': gzip.open, '.xz': lzma.open}.get(path.suffix, open)
  with opener(path, 'wt', encoding='utf-8') as f:
    f.writelines(json.dumps(r) + '\n' for r in rows)
  return str(path)


def answer(env, task, text):
  state, _ = env.reset(task, 0)
  return env.step(state, Action(text))


@pytest.mark.parametrize('ending', ['.jsonl', '.jsonl.gz', '.jsonl.xz'])
def test_reads_and_pays(tmp_path, ending):
  env = jsonl(path=write(tmp_path / f'sums{ending}', ROWS), reward=paid)
  task = env.tasks('all')[5]
  assert task.id == f'sums{ending}:6' and task.data.row == ROWS[5] and task.data.answer == '10'
  state, obs = env.reset(task, 0)
  assert obs.text == 'What is 5 + 5?' and obs.label == {'state': task.id}
  kept = pickle.dumps(state)
  over, step = env.step(state, Action(' 10 \n'))
  assert step.reward == {'task': 3.} and step.end == 1 and step.obs == '' and step.label == {'action': '10'}
  assert pickle.dumps(state) == kept and pickle.loads(kept) == state
  assert answer(env, task, '11')[1].reward == {'task': 0.}
  with pytest.raises(ValueError, match='is over'):
    env.step(over, Action('10'))
  assert pickle.loads(pickle.dumps(env)) == env


def test_splits(tmp_path):
  """Disjoint, complete, of the right size, equal lines together, the same in another file order."""
  path = write(tmp_path / 'a.jsonl', ROWS + ROWS[:20])
  of = lambda env, split: [t.data.prompt for t in env.tasks(split)]
  env = jsonl(path=path, reward=paid)
  train, held = of(env, 'train'), of(env, 'held_out')
  assert not set(train) & set(held) and sorted(train + held) == sorted(of(env, 'all')) and len(train + held) == 220
  assert 8 <= len(set(held)) <= 34
  turned = jsonl(path=write(tmp_path / 'b.jsonl', ROWS[::-1]), reward=paid)
  assert set(of(turned, 'held_out')) == set(held)
  assert set(of(jsonl(path=path, reward=paid, seed=1), 'held_out')) != set(held)
  assert len(of(jsonl(path=path, reward=paid, held_out=0.), 'train')) == 220
  half = len(set(of(jsonl(path=path, reward=paid, held_out=0.5), 'held_out')))
  assert 75 <= half <= 125


def test_blank_lines_are_passed_over(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_text('\n{"prompt": "a", "answer": 1}\n   \n{"prompt": "b", "answer": 2}\n\n')
  assert [t.id for t in jsonl(path=str(path), reward=paid).tasks('all')] == ['a.jsonl:2', 'a.jsonl:4']


@pytest.mark.parametrize('content, message', [
    ('{"prompt": "a", "answer": 1}\n{"prompt": ', r'bad\.jsonl, line 2: not JSON'),
    ('{"prompt": "a", "answer": 1}\n\n{"question": "b", "answer": 2}',
     r"bad\.jsonl, line 3: no key 'prompt'; it has \['answer', 'question'\]. Name the keys"),
    ('{"prompt": "a"}', r"bad\.jsonl, line 1: no key 'answer'"),
    ('["a", "b"]', r'bad\.jsonl, line 1: should be an object \{...\}, is list'),
    ('{"prompt": 3, "answer": 1}', r"bad\.jsonl, line 1: 'prompt' should be a text"),
    ('{"prompt": " ", "answer": 1}', r"bad\.jsonl, line 1: 'prompt' should be a text"),
    ('', r"bad\.jsonl' is empty"), ('\n \n', r"bad\.jsonl' is empty"),
])
def test_bad_files(tmp_path, content, message):
  path = tmp_path / 'bad.jsonl'
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    jsonl(path=str(path), reward=paid).tasks('train')


def test_bad_arguments(tmp_path):
  path = write(tmp_path / 'a.jsonl', ROWS[:2])
  with pytest.raises(FileNotFoundError, match="there is no file '.*none.jsonl'"):
    jsonl(path=str(tmp_path / 'none.jsonl'), reward=paid)
  with pytest.raises(ValueError, match='should end in .jsonl'):
    jsonl(path=str(tmp_path / 'a.json'), reward=paid)
  with pytest.raises(ValueError, match="reward 'no_such_module.fn' cannot be imported"):
    jsonl(path=path, reward='no_such_module.fn')
  with pytest.raises(ValueError, match="reward 'math.nothing' cannot be imported"):
    jsonl(path=path, reward='math.nothing')
  with pytest.raises(ValueError, match="reward 'math.pi' is not a function"):
    jsonl(path=path, reward='math.pi')
  with pytest.raises(ValueError, match='held_out is a share'):
    jsonl(path=path, reward=paid, held_out=10)
  with pytest.raises(ValueError, match="split 'test' is not one of"):
    jsonl(path=path, reward=paid).tasks('test')
  with pytest.raises(ValueError, match="none of the 2 lines .* falls into split 'held_out'"):
    jsonl(path=path, reward=paid, held_out=0.).tasks('held_out')


def test_a_dotted_reward_and_no_reward(tmp_path):
  path = write(tmp_path / 'a.jsonl', ROWS[:3])
  env = jsonl(path=path, reward='operator.methodcaller')
  assert callable(env.reward)
  silent = jsonl(path=path, reward=None)
  task = silent.tasks('all')[1]
  step = answer(silent, task, '<|assistant|> 2 <|end|>')[1]
  assert step.end == 1 and step.reward == {} and silent.writes == ('label/state', 'label/action')
  assert env.writes == ('reward/task', 'label/state', 'label/action')
  node = Node(-1, '', [], True, '<|assistant|> 2 <|end|>', [], None, None, {})
  assert exact(Episode(task, [node], [0])) == {'task': [1.]}


@pytest.mark.parametrize('fn, told', [
    (lambda *_: 1 / 0, 'ZeroDivisionError'), (lambda *_: math.nan, 'it gave nan'), (lambda *_: math.inf, 'it gave inf'),
    (lambda *_: None, 'TypeError'), (lambda *_: 'good', 'TypeError'), (lambda prompt: 1., 'TypeError'),
])
def test_a_reward_that_fails_is_counted_and_told(tmp_path, caplog, fn, told):
  env = jsonl(path=write(tmp_path / 'a.jsonl', ROWS[:3]), reward=fn)
  with caplog.at_level(logging.WARNING, 'rlx'):
    step = answer(env, env.tasks('all')[2], 'x')[1]
  assert step.end == 3 and step.reward == {} and step.metrics == {'reward_failed': 1.}
  assert 'a.jsonl:3' in caplog.text and told in caplog.text


@pytest.mark.parametrize('value', [True, 1, 0.5])
def test_numbers_of_any_kind_are_rewards(tmp_path, value):
  env = jsonl(path=write(tmp_path / 'a.jsonl', ROWS[:3]), reward=lambda *_: value)
  got = answer(env, env.tasks('all')[0], 'x')[1].reward['task']
  assert got == value and isinstance(got, float)


def test_gsm8k(tmp_path):
  """Twenty rows of real data under other keys; the right answer is the number behind ####."""
  source = pathlib.Path(__file__).parents[2].parent / 'shared' / 'data' / 'gsm8k_train.jsonl.xz'
  if not source.is_file():
    pytest.skip(f'{source} is not there')
  with lzma.open(source, 'rt', encoding='utf-8') as f:
    rows = [json.loads(next(f)) for _ in range(20)]
  last = lambda text: (re.findall(r'-?[\d,]*\.?\d+', text) or [''])[-1].replace(',', '')
  reward = lambda prompt, said, row: float(last(said) == last(row['answer']))
  env = jsonl(path=write(tmp_path / 'gsm.jsonl.xz', rows), reward=reward, prompt='question')
  tasks = env.tasks('all')
  assert len(tasks) == 20
  for task in tasks:
    right = task.data.answer.split('####')[1].strip()
    assert answer(env, task, f'So it is {right}')[1].reward == {'task': 1.}
    assert answer(env, task, f'So it is {right}7')[1].reward == {'task': 0.}
