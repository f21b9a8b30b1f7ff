"""The benches: what they time is right, and what they print can be read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import bench


@pytest.fixture(scope='module')
def credit(tmp_path_factory):
  path = tmp_path_factory.mktemp('bench') / 'credit.json'
  return bench.main(['credit', '--sizes', '800', '--repeats', '2', '--json', str(path)]), json.loads(path.read_text())


def test_credit(credit):
  lines, stored = credit
  assert [x['name'] for x in stored['lines']] == [x.name for x in lines]
  assert {x.size for x in lines} == {800}
  found = {x.name: x.value for x in lines}
  for name in ('gigpo', 'hgpo'):
    assert found[f'{name}, host calls'] == 0
    assert found[f'{name}, run'] > 0 and found[f'{name}, compile'] > 0
  assert found['labels / plain numpy'] == pytest.approx(found['labels'] / found['labels, plain numpy'])
  assert stored['machine']['cores'] > 0 and stored['machine']['jax'] == jax.__version__


def test_both_programs_find_the_same_steps():
  obs, group, rollout, reward = bench._episodes(800)
  assert len(set(obs)) == 60 and set(map(len, obs)) == {400} and len(set(rollout)) == 16
  plain = bench.floor(group, rollout, [o.decode() for o in obs])
  fresh = [o.decode() for o in obs]
  assert fresh[0] is not obs[0].decode() and len(set(map(id, fresh))) == 800   # every observation an object of its own
  ours = bench._label([[bench._step(-1, o) for o in fresh[:400]], [bench._step(-1, o) for o in fresh[400:]]])
  np.testing.assert_array_equal(ours, plain)
  batch = bench._batch(ours, reward)
  assert int(batch.nodes.end.sum()) == 16 and int((batch.nodes.parent < 0).sum()) == 16


def test_host_calls_are_counted():
  double = lambda x: jax.pure_callback(lambda y: np.asarray(y) * 2, jax.ShapeDtypeStruct((2,), jnp.float32), x)
  x = jnp.ones(2)
  assert bench.compiled(double, x)[2] == 1
  run, took, calls = bench.compiled(lambda v: v * 2, x)
  assert calls == 0 and took > 0
  np.testing.assert_array_equal(run(x), [2, 2])


def test_table():
  lines = [bench.Line('one', 10, 1.2345678, 'ms', 1.), bench.Line('two', 10, 0., '', 0.),
           bench.Line('three', 10, 5., 'ms')]
  rows = bench.table(lines).splitlines()
  assert rows[1].split() == ['one', '10', '1.235', 'ms', '1', 'missed']
  assert rows[2].split() == ['two', '10', '0', '0', 'ok']
  assert rows[3].split() == ['three', '10', '5', 'ms']


def test_median_without_preparation():
  prepared = []
  assert bench.seconds(lambda x: jnp.float32(x), 3, lambda: (prepared.append(1) or 2,)) < 10.
  assert len(prepared) == 3


def test_a_size_that_does_not_divide(capsys):
  with pytest.raises(ValueError, match='multiples of 400'):
    bench.credit(sizes=(500,))
  with pytest.raises(SystemExit):
    bench.main(['credit', '--sizes', '500'])
  assert 'multiples of 400 (8 rollouts of 50 steps), got 500' in capsys.readouterr().err
