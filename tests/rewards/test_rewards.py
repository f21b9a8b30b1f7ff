"""Host-side rewards: hand examples, and execution against the rewards the sql environment pays itself."""

import pytest

from rlx.envs.sql import Question, sql
from rlx.rewards import execute_sql as execute_sql_module
from rlx.rewards import exact as exact_module
from rlx.rewards import format as format_module
from rlx.types import Action, Episode, Node, Task

execute_sql, exact, format_ = execute_sql_module.execute_sql, exact_module.exact, format_module.format


def episode(task, *texts):
  return Episode(task, [Node(i - 1, '', [], i == 0, text, [], None, None, {}) for i, text in enumerate(texts)], range(len(texts)))


def test_they_say_what_they_are():
  for module, fn in ((execute_sql_module, execute_sql), (exact_module, exact), (format_module, format_)):
    assert fn.grain == 'episode' and all(w.startswith('reward/') for w in module.writes)


@pytest.mark.parametrize('world', ['hidden_names', 'four_acts'])
def test_execution_agrees_with_the_environment(tmp_path, world):
  env = sql(world=world, root=str(tmp_path), train_databases=8, held_databases=2)
  right = 0
  for task in env.tasks('train')[:150]:
    speaker = env.expert(task, 0)
    state, _ = env.reset(task, 0)
    texts = [next(speaker)]
    while True:
      state, step = env.step(state, Action(texts[-1]))
      if step.end:
        break
      texts.append(speaker.send(step.obs))
    paid = execute_sql(episode(task, *texts))
    assert set(paid) == {'execution'} and paid['execution'] == [0.] * (len(texts) - 1) + [step.metrics['correct']]
    if world == 'four_acts':
      assert execute_sql(episode(task, *texts), runs=0.2)['execution'][-1] == step.reward['answer']
    right += paid['execution'][-1]
  assert 20 < right < 130


def test_execution_by_hand(tmp_path):
  env = sql(root=str(tmp_path), train_databases=2, held_databases=1)
  task = env.tasks('train')[0]
  gold, table = f'<sql> {task.data.sql} </sql>', task.data.names[0]
  paid = lambda *texts, **kw: execute_sql(episode(task, *texts), right=1., runs=0.2, wrong=-1., **kw)['execution']
  assert paid(gold) == [1.] and paid('x', gold, 'y') == [0., 0., 1.]
  assert paid(gold, f'<sql> SELECT id FROM {table} </sql>') == [0., 0.2]                    # the last one counts
  assert paid(f'<sql> SELECT id FROM {table} </sql>{gold}') == [1.]
  assert paid('<sql> SELECT nosuch </sql>') == [-1.] and paid('no query') == [-1.] and paid(f'<q>{task.data.sql}</q>') == [-1.]
  assert paid(f'<q>{task.data.sql}</q>', tags=('q',)) == [1.]
  slow = '<sql> WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT COUNT( * ) FROM c </sql>'
  assert paid(slow) == [-1.] and paid(slow, seconds=0., vm_steps=10**9) == [None]           # no verdict


def test_execution_needs_a_file_and_a_gold_query(tmp_path):
  with pytest.raises(ValueError, match='needs tasks whose data has `path` and `sql`; task t has dict'):
    execute_sql(episode(Task('t', {}), 'x'))
  with pytest.raises(FileNotFoundError):
    execute_sql(episode(Task('t', Question(str(tmp_path / 'none.sqlite'), 'db', 'q', 'SELECT 1')), '<sql> SELECT 1 </sql>'))


def test_format():
  pattern = '<(a|b)>.*</\\1>'
  one = lambda *texts, **kw: format_(episode(Task('t'), *texts), pattern=pattern, **kw)['format']
  assert one(' <a> x\ny </a> ', '<b></b>') == [0., 0.1] and one('<a> x </b>', '<b></b>') == [0., 0.] and one('<a>x</a>.') == [0.]
  assert one('<a>x</a>', 'y', '<b>z</b>', per='step', right=1., wrong=-1.) == [1., -1., 1.]
  with pytest.raises(ValueError, match="per is 'step' or 'episode', not 'turn'"):
    one('x', per='turn')


@pytest.mark.parametrize('said, gold, tag, right', [
    ('Paris', 'paris', None, True), ('  New   York. ', 'new york', None, True), ('"Rome"!', 'Rome', None, True),
    ('42<|im_end|>', 42, None, True),
    ('', '?', None, False), ('...', '!', None, False), (' ?<|im_end|>', '?', None, True), ('', '', None, True),
    ('4 2', '42', None, False), ('.5', '5', None, False), ('-5', '5', None, False), ('it is Paris', 'Paris', None, False),
    ('I think <answer> Paris </answer>', 'Paris', 'answer', True),
    ('<answer>Rome</answer> no <answer>Paris</answer>', 'Paris', 'answer', True),
    ('Paris', 'Paris', 'answer', False), ('<answer>Paris', 'Paris', 'answer', False),
])
def test_exact(said, gold, tag, right):
  for data in (dict(answer=gold), type('Data', (), dict(answer=gold))()):
    assert exact(episode(Task('t', data), 'first', said), tag=tag) == {'task': [0., float(right)]}


def test_exact_amounts_and_faults():
  assert exact(episode(Task('t', dict(answer='a')), 'b'), right=2., wrong=-1.) == {'task': [-1.]}
  for data in (None, {}, dict(answer=None)):
    with pytest.raises(ValueError, match='task t has none'):
      exact(episode(Task('t', data), 'b'))
