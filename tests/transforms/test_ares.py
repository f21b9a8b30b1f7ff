"""ARES' entropy rewards (arXiv:2510.08457; shawn0728/ARES@146620e3 `reward_function/aepo.py`) and an independent twin.

What the channel holds is the whole reward, accuracy and the part for exploring, summed along the path. `count` is the number
of triggers (role 'trigger') whose four following tokens have a mean entropy of at least theta.
"""

import inspect
import math
import random

import numpy as np
import pytest

from rlx import toy
from rlx.transforms.ares import ares
from rlx.types import Stateful


def paid(*batches, mode='released', **kw):
  """reward['ares'] after each batch, `ares` being a transform or a factory of one with memory; and which of the two it is."""
  kinds = [p.kind for p in inspect.signature(ares).parameters.values()]
  if inspect.Parameter.POSITIONAL_OR_KEYWORD in kinds:
    out, memory = [ares(b, mode=mode, **kw) for b in batches], False
  else:
    made = ares(mode=mode, **kw)
    memory = isinstance(made, Stateful)
    state, out = (made.init() if memory else None), []
    for b in batches:
      if memory:
        state, b = made.update(state, b)
      else:
        b = made(b)
      out.append(b)
  return [np.asarray(b.nodes.reward['ares']) for b in out], memory


def row(count, length):
  return [1] * count + [0] * (length - count)


def batch(right, counts, *, failed=(), every=False, entropy=None):
  """Prompts of rollouts of one step: `count` triggers with four tokens behind them; `every` token a trigger."""
  group = [g for g, r in enumerate(right) for _ in r]
  length = [c + 4 for r in counts for c in r]
  wide = max(length)
  h = [[.5] * n for n in length] if entropy is None else entropy
  fill = lambda x: x + [0] * (wide - len(x))
  return toy.batch([-1] * len(group), group=group, n_tokens=length, task=[x for r in right for x in r],
                   end=[3 if i in failed else 1 for i in range(len(group))], stream=dict(entropy=[fill(x) for x in h]),
                   role=dict(trigger=[fill(row(n if every else n - 4, n)) for n in length]))


def reward(right, count, target, kind, alpha=.5):
  """acc + E of one rollout."""
  at = ('easy', 'medium', 'hard').index(kind)
  margin, kappa, heat = max(1., (.15, .25, .35)[at] * target), (2, 3, 4)[at], (2, 2.5, 3)[at]
  cap, d = alpha * (1, 1, 1.2)[at], count - target
  huber = lambda x: x * x / (2 * kappa) if x <= kappa else x - kappa / 2
  sat = lambda x: 1 / (1 + math.exp(-x / heat))
  over = max(d - margin, 0.)
  if not right:
    return sat(over) * cap * (.6, .8, 1.)[at]
  if kind == 'hard':
    return 1 + (sat(d + margin) * cap if d >= -margin else -min(cap, .5 * huber(-d - margin) / (margin + kappa) * cap))
  return 1 - min(cap, huber(over if kind == 'easy' else max(abs(d) - margin, 0.)) / (margin + kappa) * cap)


def kind_of(right):
  accuracy = sum(right) / len(right)
  return 'easy' if accuracy >= 2 / 3 else 'medium' if accuracy >= 1 / 3 else 'hard'


def twin(right, counts):
  kinds, out = [kind_of(r) for r in right], []
  for r, c, kind in zip(right, counts, kinds):
    same = [x for xs, k in zip(counts, kinds) for x in xs if k == kind]
    out += [reward(x, y, round(sum(same) / len(same)), kind) for x, y in zip(r, c)]
  return out


# every bucket's mean count is 10; accuracy 1, 1/2 and 1/4
RIGHT = [[1] * 4, [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]]
COUNTS = [[20, 11, 5, 4], [20, 2, 8, 10], [10, 10, 10, 10], [2, 18, 10, 10]]


def test_worked_example():
  # executed for n* = 10, alpha .5: right and easy -.5 (n = 20) and 0 (11), medium -.5 (20), hard .457525 (10) and -.1 (2);
  # by hand: easy n = 5 and 4 are no excess; medium n = 2: 5.5 - 1.5 over 2.5 + 3, times .5 is .363636;
  # wrong: sat(0) = .5 of .5 x .8 = .2 and of .6 = .3; n = 18: sat(8 - 3.5) = .817574 of .6 = .490545
  want = [.5, 1, 1, 1, .5, 1 - .363636, .2, .2, 1.457525, .3, .3, .3, .9, .490545, .3, .3]
  np.testing.assert_allclose(twin(RIGHT, COUNTS), want, atol=1e-6)
  got, _ = paid(batch(RIGHT, COUNTS))
  np.testing.assert_allclose(got[0], want, atol=1e-5)


def test_failed_rollouts_count_nowhere():
  right, counts = [*RIGHT[:3], [*RIGHT[3], 1, 1]], [*COUNTS[:3], [*COUNTS[3], 25, 1]]
  got, _ = paid(batch(right, counts, failed=(16, 17)))
  np.testing.assert_allclose(got[0][:16], twin(RIGHT, COUNTS), atol=1e-5)


def test_a_trigger_without_four_tokens_behind_it_is_none():
  # easy: n = 3 and 9, n* = 6, margin 1: d = 3 is 2 too many, 2^2 / 4 over 1 + 2, times .5 is 1/6; three more at the end
  b = batch([[1, 1]], [[3, 9]])
  role = np.array(b.tokens.role['trigger'])
  role[0, 4:7] = True
  role[1, 10:13] = True
  got, _ = paid(toy.batch([-1, -1], n_tokens=[7, 13], task=1, stream=dict(entropy=.5), role=dict(trigger=role)))
  np.testing.assert_allclose(got[0], [1., 1 - 1 / 6], atol=1e-5)


def test_a_rollout_of_several_turns():
  # the same two counts; the second rollout's 9 are 5 in its first turn and 4 in its second, an observation between
  role = np.zeros((2, 18), bool)
  role[0, :3], role[1, :5], role[1, 10:14] = True, True, True
  got, _ = paid(toy.batch([-1, -1, 1], n_tokens=[7, 9, 8], n_obs=[0, 0, 1], task=[1, 0, 1], stream=dict(entropy=.5),
                          role=dict(trigger=role)))
  np.testing.assert_allclose([got[0][0], got[0][1] + got[0][2]], [1., 1 - 1 / 6], atol=1e-5)


def test_theta():
  """Every token a trigger: theta is the median over rollouts of the 95th percentile of window means; then its running mean."""
  rng = random.Random(0)
  right = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0, 0]]      # 13 rollouts, so the median is one of them
  before, answers = None, []
  for _ in range(3):
    lengths = [rng.randint(16, 24) for r in right for _ in r]
    scales = [rng.uniform(.6, 2) for _ in lengths]
    h = [[rng.uniform(0, scale) for _ in range(n)] for n, scale in zip(lengths, scales)]
    means = [[sum(x[i + 1:i + 5]) / 4 for i in range(len(x) - 4)] for x in h]
    now = sorted(np.percentile(m, 95) for m in means)[len(means) // 2]
    answers.append((lengths, h, means, now))
  made = [batch(right, [[n - 4 for n in lengths[sum(map(len, right[:g])):][:len(r)]] for g, r in enumerate(right)],
                every=True, entropy=h) for lengths, h, *_ in answers]
  got, memory = paid(*made)
  for paid_now, (_, _, means, now) in zip(got, answers):
    before = now if before is None or not memory else .99 * before + .01 * now
    assert min(abs(x - before) for m in means for x in m) > 1e-5      # rounding decides nothing
    count = iter([sum(x >= before for x in m) for m in means])
    counts = [[next(count) for _ in r] for r in right]
    assert len({c for r in counts for c in r}) > 2
    np.testing.assert_allclose(paid_now, twin(right, counts), atol=1e-5)


def test_the_paper_leaves_right_answers_alone_and_never_pays_wrong_ones():
  # R = acc - 1[wrong] lambda g with lambda, g >= 0; with the batch's own mean as target lambda is 0
  got, _ = paid(batch(RIGHT, COUNTS), batch(RIGHT, [c[::-1] for c in COUNTS]), mode='paper')
  right = np.asarray([x for r in RIGHT for x in r])
  for x in got:
    np.testing.assert_allclose(x[right == 1], 1., atol=1e-6)
    assert np.isfinite(x).all() and (x[right == 0] <= 1e-6).all()


def test_unknown_mode():
  with pytest.raises(ValueError):
    paid(batch(RIGHT, COUNTS), mode='other')
