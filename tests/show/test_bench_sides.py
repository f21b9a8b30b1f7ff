"""The benches of two processes: the protocol, whose turn it is, ratios, what is said when a side dies; and the work itself."""

import ast
import json
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.bench import command, compare, ours, serve, sides, work

FAKE = f'''
import os, sys, time
sys.path.insert(0, {str(sides.FOLDER)!r})
import serve

def build(job):
  if job.get('lacks'):
    import a_library_that_nobody_has
  print('chatter of a library')
  count = [0]
  def run():
    count[0] += 1
    if job.get('log'):
      with open(job['log'], 'a') as f:
        f.write(job['name'])
    if count[0] > job.get('lives', 99):
      if job.get('signal'):
        os.kill(os.getpid(), job['signal'])
      print('the reason', file=sys.stderr, flush=True)
      os._exit(3)
    time.sleep(job.get('sleep', 0.))
  rows = [[0.] * job['new'] for _ in job['completions']]
  return serve.repeated(run), dict(versions=dict(fake='1'), warm=job.get('warm', 1)), lambda: (rows, rows), lambda: None

serve.serve(build)
'''
TINY = work.Shape(layers=1, dim=16, heads=2, kv_heads=1, ff=32, vocab=64)
SIZE = work.Size(prompts=2, samples=2, prompt=6, new=4)


@pytest.fixture(scope='module')
def script(tmp_path_factory):
  path = tmp_path_factory.mktemp('fake') / 'fake.py'
  path.write_text(FAKE)
  return str(path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  path = str(tmp_path_factory.mktemp('model') / 'tiny')
  work.random_llama(path, TINY)
  return path


def side(script, name='fake', **job):
  return sides.Side(name, (sys.executable, script), dict(dict(name=name, work='sample', new=1, completions=[[0]]), **job))


# ---- the protocol ------------------------------------------------------------------------------------------------------

def test_turns(script, tmp_path):
  log = str(tmp_path / 'log')
  pair = [side(script, 'a', log=log, warm=2), side(script, 'b', log=log, sleep=0.02)]
  rounds, infos = sides.alternate(pair, repeats=2)
  said = (tmp_path / 'log').read_text()
  assert said[:3] == 'aab'                        # warm-ups, before any turn
  assert 2 <= len(rounds) <= 4 and said[3:] == 'ab' * len(rounds)
  assert infos['a']['versions'] == dict(fake='1') and infos['b']['start_s'] > 0
  for a, b in rounds:
    assert b.seconds >= 0.02 > a.seconds
    assert 5 < a.peak_mb <= a.life_mb and 0 <= a.others


def test_exclusive_starts_anew(script, tmp_path):
  log = str(tmp_path / 'log')
  rounds, _ = sides.alternate([side(script, 'a', log=log), side(script, 'b', log=log)], repeats=1, exclusive=True)
  assert (tmp_path / 'log').read_text() == 'aabb' * len(rounds)     # one warm-up and one repetition each


@pytest.mark.parametrize('job, message', [
    (dict(lacks=True), "fake: .* cannot import 'a_library_that_nobody_has'"),
    (dict(lives=2), 'fake died .exit 3.: the reason'),
    (dict(lives=2, signal=int(signal.SIGKILL)), 'fake was killed .signal 9., most likely for want of memory: try --exclusive'),
    (dict(lives=2, signal=int(signal.SIGABRT)), 'fake died .signal 6.')])
def test_a_side_that_fails(script, job, message):
  with pytest.raises(ValueError, match=message):
    sides.alternate([side(script, **job)], repeats=4)


def test_no_process_is_left(script):
  with pytest.raises(KeyError):
    with sides.started(side(script), lambda text: None) as process:
      raise KeyError
  assert process.handle.poll() is not None


def test_peers_know_nothing_of_rlx():
  for path in [*sides.PEERS.values(), sides.FOLDER / 'serve.py']:
    tree = ast.walk(ast.parse(path.read_text()))
    names = [a.name for n in tree if isinstance(n, ast.Import) for a in n.names]
    names += [n.module for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
    assert names and not [n for n in names if n.split('.')[0] in ('rlx', 'pallas_kernels')]


@pytest.mark.parametrize('name', sorted(sides.PEERS))
def test_a_peer_that_is_not_installed(name, folder):
  job = work.job('sample', folder, size=SIZE)
  lonely = sides.Side(name, (sys.executable, '-S', str(sides.PEERS[name])), job)      # -S: without any installed package
  with pytest.raises(ValueError, match=f"{name}: .* cannot import '(torch|jax)'"):
    sides.alternate([lonely], repeats=1)


# ---- figures -------------------------------------------------------------------------------------------------------------

def run(seconds, others=0.):
  return sides.Run(seconds, 100., 120., None, others)


def test_ratios_are_of_pairs_and_of_the_quietest_rounds():
  pair = [sides.Side('rlx', (), {}), sides.Side('peer', (), {})]
  infos = dict(rlx=dict(versions=dict(jax='1')), peer=dict(versions=dict(torch='2'), note='8 rows a microbatch'))
  rounds = [(run(1.), run(3.)), (run(9., 0.9), run(9., 0.2)), (run(2.), run(4.)), (run(4.), run(4.))]
  a, b = sides.results(pair, rounds, infos, 3)
  assert (a.seconds, b.seconds) == (2., 4.) and len(a.runs) == 4
  assert b.ratio == 2. and b.ratio_medians == 2. and a.ratio is None
  assert sides.results(pair, rounds[:1] + rounds[2:], infos, 3)[1].ratio == 2.      # of 3, 2 and 1
  assert sides.results(pair, rounds, infos, 4)[0].others == 0.9
  text = compare.text([compare.Comparison([a, b], None)], 'sample')
  head, ours_, theirs, *rest = text.splitlines()
  assert head.split()[:4] == ['side', 'median', 's', 'new'] and ours_.split()[:5] == ['rlx', '2', '1024', '100', '120']
  assert theirs.split() == ['peer', '4', '512', '100', '120', '0%', '2.00', '2.00', 'torch', '2,', '8', 'rows', 'a', 'microbatch']
  assert not rest
  busy = sides.results(pair, rounds, infos, 4)
  assert '90%!' in compare.text([compare.Comparison(busy, None)], 'sample')


def test_scores_are_compared():
  a = sides.Result('rlx', 1., 1., 1., None, 0., None, None, [], dict(versions={}))
  b = a._replace(name='tunix', ratio=1., ratio_medians=1., info=dict(versions={}, scores='a known fault'))
  told = lambda apart: compare.text([compare.Comparison([a, b], dict(logp=apart, entropy=1e-6))], 'score')
  assert 'between rlx and tunix: log-probability 0.38, entropy 1e-06 nats (a known fault)' in told(0.38)
  assert 'a known fault' not in told(1e-5)


def test_whole_command(script, folder, tmp_path, monkeypatch, capsys):
  monkeypatch.setitem(sides.PEERS, 'trl', script)
  monkeypatch.setattr(command, 'SIZE', SIZE)
  path = str(tmp_path / 'out.json')
  found, = command.main(['score', '--model', folder, '--repeats', '1', '--microbatch', '2', '--peer', 'trl', '--peer-python', sys.executable,
                         '--json', path])
  out, err = capsys.readouterr()
  assert [r.name for r in found.results] == ['rlx', 'trl'] and found.results[1].ratio > 0
  assert 'ready after' in err and 'score, model' in out and 'device cpu' in out
  apart = -np.min(found.results[0].info['logp'])      # the fake says 0 everywhere
  assert found.apart['logp'] == pytest.approx(apart) and apart > 3
  with open(path, encoding='utf-8') as f:
    stored = json.load(f)
  assert stored['lines'][0]['results'][1]['name'] == 'trl' and stored['machine']['cores'] > 0 and stored['args']['dtype'] == 'float32'
  assert 'logp' not in stored['lines'][0]['results'][0]['info']


@pytest.mark.parametrize('argv, message', [
    (['--peer', 'trl'], '1 --peer and 0 --peer-python: give one for each, or one for all'),
    (['--peer', 'trl', '--peer-python', '/nowhere/python'], "'/nowhere/python' is no program: give the Python that trl is installed for"),
    (['--microbatch', '5'], '5 rows a microbatch do not divide the 32 rows'),
    (['--lanes', '5'], '5 lanes do not divide the 32 rows'),
    (['--repeats', '0'], '--repeats is at least 1'),
    (['--model', '/nowhere'], "no model '/nowhere'"),
    (['--model', 'B'], 'python -m rlx.fetch smollm2')])
def test_bad_flags(argv, message, monkeypatch, tmp_path, capsys):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
  with pytest.raises(SystemExit):
    command.main(['sample', *argv])
  assert message in capsys.readouterr().err


# ---- the work ------------------------------------------------------------------------------------------------------------

def test_job(folder):
  job = work.job('score', folder, size=SIZE)
  assert job == work.job('score', folder, size=SIZE)
  tok = ours.load(folder, 'float32').tokenizer
  assert [list(tok.encode(t)) for t in job['texts']] == job['prompts']
  assert [list(tok.encode(t)) for t in job['shorter']] == [ids[:-1] for ids in job['prompts']]
  adv = np.reshape(job['advantages'], (2, 2))
  np.testing.assert_allclose(adv.sum(1), 0, atol=1e-12)
  np.testing.assert_allclose(np.abs(adv), 2 ** -.5, rtol=1e-2)       # two numbers, divided by their deviation with ddof 1
  assert np.shape(job['completions']) == (4, 4)


def test_no_prompts_without_words(tmp_path):
  work.random_llama(str(tmp_path), TINY._replace(vocab=4))      # special tokens only
  with pytest.raises(ValueError, match='too few words'):
    work.job('score', str(tmp_path), size=SIZE)


def built(what, folder, turns, **kw):
  """Goes through the loop of our side for some turns; returns what `build` gave."""
  side_ = ours.build({**work.job(what, folder, size=SIZE), **kw})
  left = [turns]

  def turn():
    left[0] -= 1
    if not left[0]:
      raise StopIteration
  with pytest.raises(StopIteration):
    side_[0](turn)
  return side_


@pytest.mark.parametrize('what, lanes', [('sample', 1), ('sample', 2), ('update', 1), ('step', 1)])
def test_ours_runs(what, lanes, folder):
  loop, info, logp, device_mb = built(what, folder, 2, lanes=lanes, microbatch=2)
  assert info['versions']['jax'] == jax.__version__ and logp is None and device_mb() is None
  assert info['note'] == (['', '2 lanes'][lanes - 1] if what == 'sample' else '2 rows a microbatch')


def test_our_scores_are_those_of_each_row(folder):
  logp, entropy = built('score', folder, 1)[2]()
  job, model = work.job('score', folder, size=SIZE), ours.load(folder, 'float32')
  rows = np.array([ids + said for ids, said in zip(np.repeat(job['prompts'], 2, axis=0).tolist(), job['completions'])], np.int32)
  n, width = rows.shape
  position = np.tile(np.arange(width, dtype=np.int32), (n, 1))
  hidden, _ = model.policy.apply(model.params, rows, position, np.full_like(rows, width))
  logps = jax.nn.log_softmax(hidden @ model.policy.head(model.params))[:, SIZE.prompt - 1:-1]
  want = jnp.take_along_axis(logps, rows[:, SIZE.prompt:, None], axis=2)[..., 0]
  np.testing.assert_allclose(logp, want, atol=1e-5)
  np.testing.assert_allclose(entropy, -(jnp.exp(logps) * logps).sum(-1), atol=1e-5)


def test_tokens_counted():
  assert work.tokens('sample', work.Size()) == (2048, 'new tokens')
  assert work.tokens('update', work.Size()) == (4096, 'tokens read')


def test_pay_and_memory():
  assert serve.pay('ab') == (97 + 98) % 97 / 97 and 10 < serve.peak_mb() < 1e6
