"""`toy.batch` lays out rows as the design draws them; `toy.show` draws the tree; mistakes are named."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import groups, toy, tree
from rlx.types import Advantages

EXAMPLE = dict(parent=[-1, 0, 1, 1, 0, 4], task=[0, 0, 1, 0, 0, 1])


def test_rows_of_the_worked_example():
  """Rows 0-1-2, 0-1-3, 0-4-5: step 0 is sampled in all three and trained in the first only."""
  t = toy.batch(**EXAMPLE).tokens
  assert t.node.tolist() == [[0, 1, 2], [0, 1, 3], [0, 4, 5]]
  assert t.sampled.all()
  assert t.mask.tolist() == [[True, True, True], [False, False, True], [False, True, True]]
  assert t.segment.tolist() == [[0] * 3] * 3 and t.position.tolist() == [[0, 1, 2]] * 3
  assert (t.ids[0, 0] == t.ids[1, 0]).all() and len(set(t.ids.ravel().tolist())) == 6


def test_observations_packing_and_padding():
  b = toy.batch(parent=[-1, 0, -1], n_tokens=[1, 2, 1], n_obs=[0, 1, 1], task=0, pack=2)
  t = b.tokens
  assert t.node.tolist() == [[0, 1, 1, 1, 2, 2]]
  assert t.segment.tolist() == [[0, 0, 0, 0, 1, 1]] and t.position.tolist() == [[0, 1, 2, 3, 0, 1]]
  assert t.mask.tolist() == [[True, False, True, True, False, True]] == t.sampled.tolist()
  t = toy.batch(parent=[-1, -1], n_tokens=[3, 1], task=0).tokens
  assert t.node.tolist() == [[0, 0, 0], [1, -1, -1]] and t.segment.tolist() == [[0, 0, 0], [0, -1, -1]]


def test_columns():
  label = dict(state=list('abdcbc'), turn=[0, 1, 2, 2, 1, 2], pair=[(0, 1)] * 6, zero=0)
  stream = dict(entropy=[0, 1, 2, 3, 4, 5], kl=np.ones((3, 3)))
  b = toy.batch(**EXAMPLE, label=label, value=dict(low=.5), role=dict(plan=[1, 0, 0, 0, 1, 0]), stream=stream, logp=-1.,
                prompt=dict(difficulty=[.3]), format=1)
  assert b.nodes.label['state'].tolist() == [0, 1, 2, 3, 1, 3] and b.nodes.label['turn'].tolist() == [0, 1, 2, 2, 1, 2]
  assert b.nodes.label['pair'].tolist() == b.nodes.label['zero'].tolist() == [0] * 6
  assert b.nodes.value['low'].tolist() == [.5] * 6 and b.nodes.reward['format'].tolist() == [1] * 6
  assert b.tokens.role['plan'].tolist() == [[True, False, False], [True, False, False], [True, True, False]]
  assert b.tokens.stream['entropy'].tolist() == [[0, 1, 2], [0, 1, 3], [0, 4, 5]] and b.tokens.stream['kl'].sum() == 9
  assert b.tokens.logp.tolist() == [[-1] * 3] * 3 and b.prompt['difficulty'].shape == (1,)
  kinds = dict(parent='int32', group='int32', valid='bool', end='int32')
  assert {k: str(getattr(b.nodes, k).dtype) for k in kinds} == kinds
  assert {str(x.dtype) for x in (*b.nodes.reward.values(), *b.nodes.value.values(), b.tokens.logp)} == {'float32'}


@pytest.mark.parametrize('keywords, message', [
    (dict(parent=[-1, 2, 0], task=0), 'parents come before their children: step 1 has parent 2'),
    (dict(parent=[-1, -2], task=0), 'step 1 has parent -2'),
    (dict(parent=[-1, 0], task=[1, 0, 0]), r"reward\['task'\] has shape \(3,\); there are 2 steps"),
    (dict(parent=[-1, 0], task=0, label=dict(state=['a'])), r"label\['state'\] has shape \(1,\)"),
    (dict(parent=[-1, 0], task=0, n_tokens=[1, 2, 3]), 'n_tokens has shape'),
    (dict(parent=[-1, 0], task=0, end=[0, 4]), 'end is 0 goes on, 1 done, 2 cut off or 3 failed'),
])
def test_mistakes_are_named(keywords, message):
  with pytest.raises(ValueError, match=message):
    toy.batch(**keywords)


def test_show_draws_the_tree(capsys):
  b = toy.batch(**EXAMPLE, end=[0, 0, 1, 3, 0, 2])
  ret, on = tree.returns(b.nodes, 'task')
  text = toy.show(b, tree.leaf_mean(ret, on, b.nodes.parent), names=('V',))
  assert capsys.readouterr().out == text + '\n'
  lines = [line.split() for line in text.splitlines()]
  assert lines == [['step', 'task', 'V'], ['0', '0', '1'], ['1', '0', '1'], ['2', 'done', '1', '1'], ['3', 'failed', '0', '0'],
                   ['4', '0', '1'], ['5', 'cut', '1', '1']]
  assert text.splitlines()[3].startswith('    2 done')


def test_show_takes_tokens_and_advantages(capsys):
  b = toy.batch(**EXAMPLE)
  by_token = jnp.where(b.tokens.mask, b.tokens.node, 0).astype(jnp.float32)
  text = toy.show(b, by_token, Advantages(adv=b.nodes.reward['task']), names=('node', 'adv'))
  capsys.readouterr()
  assert text.splitlines()[6].split() == ['5', 'done', '1', '5', '1']
  with pytest.raises(ValueError, match='2 columns but 1 names'):
    toy.show(b, by_token, by_token)


def test_what_show_returns_is_the_text_and_draws_itself(capsys):
  b = toy.batch(**EXAMPLE)
  text = toy.show(b, b.nodes.reward['task'], names=('V',))
  capsys.readouterr()
  assert isinstance(text, str) and repr(text) == repr(str(text)) and text.startswith('step ')
  assert text._repr_svg_() == toy.draw(b, b.nodes.reward['task'], names=('V',)) and text._repr_svg_().startswith('<svg ')


def test_the_notebook_example(capsys):
  """The six lines of the design: V(step) - V(step before)."""
  batch = toy.batch(**EXAMPLE)

  def mine(batch, *, channel='task'):
    n = batch.nodes
    ret, on = tree.returns(n, channel)
    v = tree.leaf_mean(ret, on, n.parent)
    return v - tree.above(v, n.parent, groups.group_stats(ret, n.group, on).mean)
  np.testing.assert_allclose(mine(batch), [0, -1 / 6, .5, -.5, 1 / 3, 0], atol=1e-6)
  toy.show(batch, mine(batch))
  assert '-0.1667' in capsys.readouterr().out
