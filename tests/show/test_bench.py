"""The benches inside one process: what they time is right, and what they print can be read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.linear_logp.bench import Head
from rlx import testing
from rlx.bench import command, decode, table
from rlx.bench import credit as credits
from rlx.bench import head as heads


@pytest.fixture(scope='module')
def credit(tmp_path_factory):
  path = tmp_path_factory.mktemp('bench') / 'credit.json'
  return command.main(['credit', '--sizes', '800', '--repeats', '2', '--methods', 'none', '--json', str(path)]), json.loads(path.read_text())


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


def broken(batch):
  raise ValueError('no such column\nas this one')


def test_every_method_in_one_table(tmp_path, monkeypatch, capsys):
  """Estimators of both kinds, a modulator, and one that cannot run, at every size; sorted, and why."""
  names, resolve = ['grpo', 'permuted', 'broken', 'gae'], credits.config.resolve
  monkeypatch.setattr(credits.config, 'names', lambda kind: names)
  monkeypatch.setattr(credits.config, 'resolve', lambda kind, name: globals().get(name) or resolve(kind, name))
  lines = command.main(['credit', '--sizes', '400', '800', '--repeats', '1', '--json', str(tmp_path / 'x.json')])
  found = {(x.name, x.size): x for x in lines if x.name.startswith('method ')}
  assert len(found) == 16 and found['method gae, run', 800].value > 0 and found['method broken, run', 400].value is None
  assert json.loads((tmp_path / 'x.json').read_text())['lines'][-1]['name'] == 'method gae, run'
  first, second, why = capsys.readouterr().out.split('\n\n')
  assert 'gigpo, run' in first and 'method' not in first
  head, *rows = [row.split() for row in second.splitlines()]
  assert head == 'ms compile 400 run 400 compile 800 run 800 above 15 ms'.split()
  assert sorted(r[0] for r in rows) == sorted(names) and rows[-1] == ['broken'] + ['n/a'] * 4
  assert [float(r[4]) for r in rows[:3]] == sorted(float(r[4]) for r in rows[:3])
  assert why.splitlines() == ['n/a:', 'broken, 400 steps: ValueError: no such column', 'broken, 800 steps: ValueError: no such column']


def test_a_method_that_wants_too_much_memory_is_not_run(monkeypatch):
  monkeypatch.setattr(credits, 'MEMORY', -1)
  built, run = credits.method('grpo', credits.every_column(400), 1)
  assert built.value > 0 and run.value is None and run.note == 'it wants 0 GB of memory' and run.verdict == ''


def test_the_mark_of_a_slow_method():
  line = lambda name, size, ms: [table.Line(f'method {name}, compile', size, 9., 'ms'), table.Line(f'method {name}, run', size, ms, 'ms', 15. * size / 6400)]
  shown = credits.text([*line('slow', 6400, 14.), *line('slow', 64000, 151.), *line('fast', 6400, 3.), *line('fast', 64000, 150.)])
  assert [r.split() for r in shown.splitlines()[1:]] == [['fast', '9', '3', '9', '150'], ['slow', '9', '14', '9', '151', 'above']]


def test_every_column_is_there():
  b, want = credits.every_column(800), testing.batch()
  for table_, other in ((b.nodes, want.nodes), (b.tokens, want.tokens)):
    for field in ('reward', 'judged', 'label', 'value', 'role', 'stream'):
      assert {k: x.dtype for k, x in getattr(table_, field, {}).items()} == {k: x.dtype for k, x in getattr(other, field, {}).items()}, field
  assert set(b.prompt) == set(want.prompt) and b.prompt['difficulty'].shape == (2,)
  assert jax.tree.map(lambda x: x.dtype, b) == jax.tree.map(lambda x: x.dtype, want)
  on = np.asarray(b.tokens.node)
  assert on.shape == (16, 100) and on[3, 40] == 3 * 50 + 20 and int(b.nodes.end.sum()) == 16


def test_both_programs_find_the_same_steps():
  obs, group, rollout, reward = credits._episodes(800)
  assert len(set(obs)) == 60 and set(map(len, obs)) == {400} and len(set(rollout)) == 16
  plain = credits.floor(group, rollout, [o.decode() for o in obs])
  fresh = [o.decode() for o in obs]
  assert fresh[0] is not obs[0].decode() and len(set(map(id, fresh))) == 800   # every observation an object of its own
  ours = credits._label([[credits._step(-1, o) for o in fresh[:400]], [credits._step(-1, o) for o in fresh[400:]]])
  np.testing.assert_array_equal(ours, plain)
  batch = credits._batch(ours, reward)
  assert int(batch.nodes.end.sum()) == 16 and int((batch.nodes.parent < 0).sum()) == 16


def test_host_calls_are_counted():
  double = lambda x: jax.pure_callback(lambda y: np.asarray(y) * 2, jax.ShapeDtypeStruct((2,), jnp.float32), x)
  x = jnp.ones(2)
  assert table.compiled(double, x)[2] == 1
  run, took, calls = table.compiled(lambda v: v * 2, x)
  assert calls == 0 and took > 0
  np.testing.assert_array_equal(run(x), [2, 2])


def test_table():
  lines = [table.Line('one', 10, 1.2345678, 'ms', 1.), table.Line('two', 10, 0., '', 0.),
           table.Line('three', 10, 5., 'ms')]
  rows = table.table(lines).splitlines()
  assert rows[1].split() == ['one', '10', '1.235', 'ms', '1', 'missed']
  assert rows[2].split() == ['two', '10', '0', '0', 'ok']
  assert rows[3].split() == ['three', '10', '5', 'ms']


def test_median_without_preparation():
  prepared = []
  assert table.seconds(lambda x: jnp.float32(x), 3, lambda: (prepared.append(1) or 2,)) < 10.
  assert len(prepared) == 3


def test_a_size_that_does_not_divide(capsys):
  with pytest.raises(ValueError, match='multiples of 400'):
    credits.credit(sizes=(500,))
  with pytest.raises(SystemExit):
    command.main(['credit', '--sizes', '500'])
  assert 'multiples of 400 (8 rollouts of 50 steps), got 500' in capsys.readouterr().err


def test_decode(capsys):
  found = {x.name: x for x in command.main(['decode', '--samples', '3', '--prompt', '40', '--new', '6', '--repeats', '1'])}
  assert found['largest difference'].value < 1e-5      # the softmax in two parts is the softmax
  assert found['prefix in memory, a cache a row'].value == 3 * found['prefix in memory, shared'].value
  assert 'shared / a cache a row' in capsys.readouterr().out
  with pytest.raises(SystemExit):
    command.main(['decode', '--new', '1'])
  assert 'at least 2 new ids' in capsys.readouterr().err


def test_shared_attention_sees_what_is_filled():
  draw = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  q, prefix, own = draw(0, 2, 3, 3, 64), draw(1, 2, 1, 3, 5, 64), draw(2, 2, 2, 3, 4, 64)
  keys, values = (jnp.concatenate([jnp.repeat(p, 2, axis=0), o[:, :, :2]], axis=2) for p, o in zip(prefix, own, strict=True))
  want = jnp.einsum('rkms,rksd->rkmd', jax.nn.softmax(jnp.einsum('rkmd,rksd->rkms', q, keys)), values)
  np.testing.assert_allclose(decode.shared(q, tuple(prefix), tuple(own), jnp.int32(2)), want, atol=1e-5)
  copies = tuple(jnp.repeat(p, 2, axis=0) for p in prefix)
  np.testing.assert_allclose(decode.per_row(q, copies, tuple(own), jnp.int32(2)), want, atol=1e-5)


def test_head(capsys):
  lines = {x.name: x for x in command.main(['head', '--tokens', '16', '--vocab', '32', '--width', '8', '--repeats', '1'])}
  assert {name.split(',')[0] for name in lines} == {'reference', 'xla', 'fused'}
  assert lines['xla, forward'].target == lines['reference, forward'].value and lines['reference, forward'].target is None
  assert lines['xla, with gradient, temporary memory'].target is None      # the limits are those of another size
  for flag, said in (('--repeats=0', 'at least 1'), ('--dtype=int8', "float32 or bfloat16, not 'int8'")):
    with pytest.raises(SystemExit):
      command.main(['head', flag])
    assert said in capsys.readouterr().err


def test_head_limits(monkeypatch):
  rows = [Head('reference', 2., 5., 900., 3000.), Head('xla', 1., 6., 60., 170.), Head('fused', None, 4., None, 150.)]
  monkeypatch.setattr(heads, 'measure', lambda *args, **kw: rows)
  verdicts = {x.name: x.verdict for x in heads.head()}
  assert verdicts == {
      'reference, forward': '', 'reference, forward, temporary memory': '', 'reference, with gradient': '',
      'reference, with gradient, temporary memory': '', 'xla, forward': 'ok', 'xla, forward, temporary memory': 'ok',
      'xla, with gradient': 'missed', 'xla, with gradient, temporary memory': 'missed', 'fused, with gradient': 'ok',
      'fused, with gradient, temporary memory': 'ok'}
