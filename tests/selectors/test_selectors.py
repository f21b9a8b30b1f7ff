"""Selectors: which tokens stay, and that what goes leaves the denominator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, testing, toy
from rlx.selectors.credited import credited
from rlx.selectors.finished import finished
from rlx.selectors.informative import informative
from rlx.selectors.judged import judged
from rlx.selectors.where import where


def steps(b, keep):
  """The steps that still have a kept token."""
  return sorted(set(np.asarray(b.tokens.node)[np.asarray(keep)].tolist()))


def test_where_label_and_role():
  b = toy.batch(parent=[-1, 0, -1, 2], task=0, n_tokens=2, label=dict(explore=[1, 0, 2, -1]), role=dict(think=[0, 1, 1, 1]))
  keep = b.tokens.mask
  assert steps(b, where(b, keep, label='explore')) == [0, 2]        # above 0
  assert steps(b, where(b, keep, role='think')) == [1, 2, 3]
  assert steps(b, where(b, keep, label='explore', role='think')) == [2]
  assert (where(b, keep) == keep).all()
  assert steps(b, where(b, keep & (b.tokens.node > 0), label='explore')) == [2]   # never adds a token


def test_where_names_tokens_not_steps():
  """A role is a block inside a step."""
  b = toy.batch(parent=[-1], task=0, n_tokens=3, role=dict(answer=[[0, 0, 1]]))
  assert where(b, b.tokens.mask, role='answer').tolist() == [[False, False, True]]


def test_informative_drops_prompts_without_variance():
  """Prompt 0 differs, 1 is equal, 2 has one episode, 3 differs only by a failed and an abandoned one."""
  b = toy.batch(parent=[-1] * 9, group=[0, 0, 1, 1, 2, 3, 3, 3, 3], end=[1, 1, 1, 2, 1, 1, 1, 3, 0],
                task=[1, 0, .7, .7, 1, 0, 0, 1, 1])
  assert steps(b, informative(b, b.tokens.mask)) == [0, 1]
  assert steps(b, informative(b, b.tokens.mask, singleton='keep')) == [0, 1, 4]
  with pytest.raises(ValueError, match="'drop' or 'keep', not 'raw'"):
    informative(b, b.tokens.mask, singleton='raw')


def test_informative_reads_its_channel():
  b = toy.batch(parent=[-1] * 4, group=[0, 0, 1, 1], task=[1, 1, 0, 1], schema=[0, 1, 1, 1])
  assert steps(b, informative(b, b.tokens.mask)) == [2, 3]
  assert steps(b, informative(b, b.tokens.mask, channel='schema')) == [0, 1]


def test_informative_leaves_the_denominator():
  b = toy.batch(parent=[-1] * 4, group=[0, 0, 1, 1], n_tokens=[1, 1, 5, 5], task=[1, 0, 1, 1])
  for of, want in ((average.token_mean, 2), (average.seq_mean, 2), (average.original_tokens, 12)):
    assert float(jnp.sum(of(b, informative(b, b.tokens.mask))[1])) == want


def test_credited_keeps_what_an_ended_episode_runs_through():
  b = toy.batch(parent=[-1, 0, 0, 2, -1, -1, -1], end=[0, 1, 0, 0, 2, 3, 0], task=0)
  assert steps(b, credited(b, b.tokens.mask)) == [0, 1, 4]


def test_finished_keeps_what_an_episode_with_end_1_runs_through():
  b = toy.batch(parent=[-1, 0, 0, 2, -1, -1, -1], end=[0, 1, 2, 0, 2, 3, 1], task=0)
  assert steps(b, finished(b, b.tokens.mask)) == [0, 1, 6]


def test_judged_keeps_episodes_with_a_verdict():
  """Step 0 is shared by a judged (1) and an unjudged episode (2); 3 has no verdict on its first step, so 4 has none either; 5 failed."""
  b = toy.batch(parent=[-1, 0, 0, -1, 3, -1], task=[0, 1, 0, 0, 1, 1], judged=dict(task=[1, 1, 0, 0, 1, 1]), end=[0, 1, 1, 0, 1, 3])
  assert steps(b, judged(b, b.tokens.mask)) == [0, 1]
  assert steps(b, judged(b, b.tokens.mask & (b.tokens.node > 0))) == [1]
  plain = toy.batch(parent=[-1, -1], task=[0, 1])
  assert (judged(plain, plain.tokens.mask) == plain.tokens.mask).all(), 'a channel whose verdicts are never missing'


@pytest.mark.parametrize('select', [where, lambda b, k: where(b, k, label='select', role='plan'), informative, credited, judged, finished],
                         ids=['all', 'where', 'informative', 'credited', 'judged', 'finished'])
def test_selectors_only_ever_drop(select):
  b = testing.batch()
  keep = jax.jit(select)(b, b.tokens.mask)
  assert keep.dtype == bool and keep.shape == b.tokens.mask.shape
  assert not (keep & ~b.tokens.mask).any() and keep.any()
