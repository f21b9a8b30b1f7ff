"""The property suite itself: each property catches the mistake it is for, and methods of every form can be studied."""

import os
import pathlib
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import groups, masked, testing, tree
from rlx.types import Advantages, Stateful


def good(batch, *, channel='task', scale=1.):
  n = batch.nodes
  ret, on = tree.returns(n, channel)
  return tree.leaf_mean(scale * groups.group_norm(ret, n.group, on, std=True, ddof=1), on, n.parent)


def not_finite(batch):
  """Divides by the deviation without a floor: 0 / 0 in a group of one."""
  n = batch.nodes
  ret, on = tree.returns(n, 'task')
  s = groups.group_stats(ret, n.group, on)
  return tree.leaf_mean((ret - s.mean) / s.std(1), on, n.parent)


def outside_the_mask(batch):
  return jnp.ones_like(batch.tokens.logp)


def branches_on_a_float(batch, *, scale=1.):
  return good(batch) if scale > 0 else -good(batch)


def counts_padding(batch):
  """Centres with a mean over the padded table."""
  n = batch.nodes
  ret, on = tree.returns(n, 'task')
  return tree.leaf_mean(jnp.where(on, ret - jnp.mean(jnp.where(on, ret, 0.)), 0.), on, n.parent)


def counts_prompts(batch):
  """Uses the number of a prompt as a number."""
  return good(batch) * (1 + batch.nodes.group.astype(jnp.float32))


def counts_dead_steps(batch):
  """Statistics over valid steps instead of over steps an episode runs through."""
  n = batch.nodes
  ret, on = tree.returns(n, 'task')
  live = tree.through(on, n.parent)
  return jnp.where(live, tree.leaf_mean(ret, on, n.parent) - groups.group_stats(ret, n.group, n.valid).mean, 0.)


def credits_the_dead(batch):
  n = batch.nodes
  return groups.group_norm(tree.returns(n, 'task')[0], n.group, n.valid, std=False, ddof=1)


def explodes_without_variance(batch):
  """The bundle of one score of RiskPO: 1e-6 under a difference that is not 0."""
  n = batch.nodes
  ret, on = tree.returns(n, 'task')
  return tree.leaf_mean(ret / (groups.group_stats(ret, n.group, on).std(1) + 1e-6), on, n.parent)


def live_tokens(batch):
  n = batch.nodes
  return tree.above(tree.through(tree.ended(n), n.parent), batch.tokens.node, False)


def reads_rows(batch):
  """A mean over the row, whatever sequences are packed in it."""
  t = batch.tokens
  row = jnp.mean(jnp.where(t.mask, t.logp, 0.), axis=1, keepdims=True) * jnp.ones_like(t.logp)
  return jnp.where(t.mask & live_tokens(batch), row, 0.)


@pytest.mark.parametrize('method, check', [
    (not_finite, testing.plain_numbers), (outside_the_mask, testing.plain_numbers),
    (branches_on_a_float, testing.jit_changes_nothing), (counts_padding, testing.padding_changes_nothing),
    (counts_prompts, testing.order_of_prompts_does_not_matter), (counts_dead_steps, testing.dead_ends_get_nothing),
    (credits_the_dead, testing.dead_ends_get_nothing), (explodes_without_variance, testing.degenerate_groups_are_finite),
    (reads_rows, testing.rows_do_not_matter)], ids=lambda f: f.__name__)
def test_each_property_catches_its_mistake(method, check):
  with pytest.raises(Exception, match=r'.') as caught:
    check(testing.study(method))
  wanted = 'Tracer' if method is branches_on_a_float else 'AssertionError'
  assert wanted in type(caught.value).__name__


def test_a_retrace_is_caught():
  s = testing.study(good)
  s.run(s.batch())
  grows = s._replace(run=lambda b: s.traces.append(1) or s.run(b))
  with pytest.raises(AssertionError, match='traced again'):
    testing.new_values_do_not_retrace(grows)


def test_all_properties_hold_for_a_good_method():
  s = testing.study(good)
  for check in testing.PROPERTIES:
    check(s)
  assert len(s.traces) == 2   # one compilation for all batches, one for more padding


# ---- forms of methods ------------------------------------------------------------------------------------------------

def halved(batch, adv, *, by=.5):
  """A modulator."""
  del batch
  return adv * by


def seen(*, momentum=.9):
  """A factory of an estimator with memory: its state is the mean return so far."""
  def update(state, batch):
    ret, on = tree.returns(batch.nodes, 'task')
    mean = jnp.sum(jnp.where(on, ret, 0.)) / jnp.maximum(jnp.sum(on, dtype=jnp.float32), 1)
    state = momentum * state + (1 - momentum) * mean
    return state, tree.leaf_mean(jnp.where(on, ret - state, 0.), on, batch.nodes.parent)
  return Stateful(lambda: jnp.float32(0), update)


def noisy(batch, *, step, key):
  """Asks for the step and a key, and has a target a step."""
  del key
  adv = good(batch) * (1 + .1 * step.astype(jnp.float32))
  return Advantages(adv=masked.to_tokens(adv, batch.tokens), target=dict(critic=adv))


@pytest.mark.parametrize('method', [halved, seen, noisy], ids=lambda f: f.__name__)
def test_every_form_can_be_studied(method):
  s = testing.study(method)
  b = s.batch()
  names = testing.answers(s.run(b))
  assert list(names) == (['adv', 'target critic'] if method is noisy else ['adv'])
  testing.plain_numbers(s)
  testing.jit_changes_nothing(s)
  testing.dead_ends_get_nothing(s)


def module_with(needs, fn):
  module = types.ModuleType(f'lab_{fn.__name__}')
  module.needs, fn.__module__ = needs, module.__name__
  sys.modules[module.__name__] = module
  return fn


def test_needs():
  def along_rows(batch):
    t = batch.tokens
    x = masked.segment_mean(t.logp, t, over='path')
    return jnp.where(t.mask & live_tokens(batch), x, 0.)

  def per_token(batch, adv):
    assert adv.shape == batch.tokens.logp.shape
    return adv

  s = testing.study(module_with(('chains',), along_rows))
  parent = np.asarray(s.batch().nodes.parent)
  assert len(set(parent[parent >= 0])) == (parent >= 0).sum()         # no step has two children
  testing.rows_do_not_matter(s)
  testing.plain_numbers(testing.study(module_with(('tokens',), per_token)))
  with pytest.raises(ValueError, match="made of 'chains', 'tokens' and 'chance'"):
    testing.study(module_with(('rows',), lambda batch: good(batch)))


# ---- the batches -----------------------------------------------------------------------------------------------------

def test_the_batch_has_every_case():
  for chains in (False, True):
    b = testing.batch(chains=chains)
    n, t = b.nodes, b.tokens
    assert (n.parent.shape, t.node.shape) == (testing.SHAPE[:1], testing.SHAPE[1:])
    assert set(n.end.tolist()) == {0, 1, 2, 3} and not n.valid.all()
    ret, on = tree.returns(n, 'task')
    g = groups.group_stats(ret, n.group, on)
    counts = {int(k): int(np.asarray(g.count)[np.asarray(n.valid) & (np.asarray(n.group) == k)][0]) for k in range(5)}
    assert counts[2] == 1 and counts[3] == 2 and counts[4] == 0 and counts[0] > 2
    assert (np.asarray(g.square)[np.asarray(n.group) == 3] == 0).all() and float(g.square[0]) > 0
    assert (t.segment == 1).any() and (t.sampled & ~t.mask).any() != chains
    assert testing.dead(b).tolist() == (n.valid & ~tree.through(tree.ended(n), n.parent)).tolist()


def test_pytest_runs_on_a_method_from_outside(tmp_path):
  """`pytest --method my_lab.mod.fn` from the clone runs the suite, and nothing else, on that function."""
  lab = tmp_path / 'my_lab'
  lab.mkdir()
  (lab / 'mod.py').write_text('''
from rlx import tree

def fn(batch):
  ret, on = tree.returns(batch.nodes, 'task')
  return tree.leaf_mean(ret, on, batch.nodes.parent)

def bad(batch):
  return batch.nodes.reward['task']
''')
  root = pathlib.Path(__file__).parents[2]
  command = [sys.executable, '-m', 'pytest', '-n', '0', '-p', 'no:cacheprovider']
  command += ['--method', 'my_lab.mod.fn', '--method', 'my_lab.mod.bad']
  env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
  done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, timeout=300, check=False)
  assert done.returncode == 1
  assert 'my_lab.mod.bad-dead_ends_get_nothing' in done.stdout
  assert 'my_lab.mod.fn' not in done.stdout.split('short test summary')[1], done.stdout
