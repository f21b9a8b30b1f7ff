"""RiskPO (arXiv:2510.00911) and its released code (RTkenny/RiskPO@65ec40c9) against worked examples and an independent twin.

Open in paper and code, and so ours: which answer is answer j of a question (here in the order of the steps where they ended), what
answers beyond the shortest question of a bundle get (0); that a last bundle may hold fewer questions, and that its sums are then scaled to
a full one's, since they are read on the same quantiles; that a question with a single answer is in no bundle (the release has as many papers as
the shortest question has answers, so it would leave its bundle one paper, which nothing can be compared with).
"""

import functools
import inspect
import random

import forests
import jax
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.riskpo import riskpo

LEVELS = [.05 * (k + 1) for k in range(19)]


def shared(a, scores, means, credit):
  """The advantage of a paper, given to its answers."""
  over = [s - m for s, m in zip(scores, means)]
  if credit == 'sum_mean':
    return [a / len(scores) if abs(sum(over)) <= 1e-6 else a * x / sum(over) for x in over]
  return [a * (.5 if s > 0 else 1.5) for s in scores] if credit == 'score' else [a] * len(scores)


def std(x, least):
  """Sample deviation, 1 for a single number and where it is at most `least`."""
  out = np.std(x, ddof=1) if len(x) > 1 else 1.
  return out if out > least else 1.


def twin(f, q, *, channel='task', bundle=5, low=.2, high=.8, weight=1.5, credit='sum_mean', natural=False, form='released',
         quantile_rate=.1):
  """(the next values of the quantiles, one number a step); q is None before the first batch."""
  found = [group for _, group in sorted(forests.episodes(f, channel).items())]
  several = [group for group in found if len(group) > 1]
  bundles = [several[i:i + bundle] for i in range(0, len(several), bundle)]
  papers = [[[group[j] for group in b] for j in range(min(map(len, b)))] for b in bundles]
  exams = [[sum(r for _, r in paper) * bundle / len(paper) for paper in b] for b in papers]
  pool = [x for b in exams for x in b]
  if q is None:
    q = now = np.quantile(pool, LEVELS)
  else:
    now, q = q, [v + quantile_rate * (level - sum(x < v for x in pool) / len(pool)) for v, level in zip(q, LEVELS)]
  low_q, high_q = (now[min(range(19), key=lambda k: abs(LEVELS[k] - level))] for level in (low, high))
  out = [(steps, 0.) for group in found for steps, _ in group]
  place = {tuple(steps): k for k, (steps, _) in enumerate(out)}
  for b, its_papers, scores in zip(bundles, papers, exams):
    for paper, x in zip(its_papers, scores):
      g, c = max(x - low_q, 0) - max(x - high_q, 0), -max(low_q - x, 0)
      if form == 'paper':
        a = (1 + weight) * c + g + low_q - high_q
      else:
        a = (weight * c / (low + 1e-6) + (g + (low_q - high_q if natural else 0)) / (high - low + 1e-6)) / (weight + 1)
        a /= std(scores, 0.) + 1e-6
      parts = shared(a, [r for _, r in paper], [np.mean([r for _, r in group]) for group in b], credit)
      for (steps, _), group, part in zip(paper, b, parts):
        out[place[tuple(steps)]] = steps, part / std([r for _, r in group], 1e-3) if credit == 'std' else part
  return q, forests.over_paths(f, out)


def quantiles(state):
  leaf, = [x for x in jax.tree.leaves(state) if np.shape(x) == (19,)]
  return np.asarray(leaf)


def between(state, low, high):
  """The state with these values at the levels .2 and .8."""
  q = np.zeros(19, np.float32)
  q[3], q[15] = low, high
  return jax.tree.map(lambda x: q if np.shape(x) == (19,) else x, state)


@functools.cache
def jitted(static):
  return jax.jit(lambda floats, state, batch: riskpo(**dict(static), **floats).update(state, batch))


def run(state, batch, **mode):
  """One update on the padded batch, floats traced; state None: the first."""
  mode = {k: p.default for k, p in inspect.signature(riskpo).parameters.items()} | mode
  floats = {k: np.float32(v) for k, v in mode.items() if isinstance(v, float)}
  state = riskpo(**mode).init() if state is None else state
  state, out = jitted(tuple((k, v) for k, v in mode.items() if k not in floats))(floats, state, forests.padded(batch))
  assert not np.asarray(out)[len(batch.nodes.parent):].any(), 'padding has to stay 0'
  return state, np.asarray(out)[:len(batch.nodes.parent)]


def exam(*scores, **mode):
  """One bundle of these questions, the quantiles at .5 and 1.5."""
  batch = toy.batch([-1] * sum(map(len, scores)), group=[g for g, s in enumerate(scores) for _ in s], task=sum(scores, []))
  state, _ = run(None, batch, bundle=len(scores), **mode)
  return run(between(state, .5, 1.5), batch, bundle=len(scores), **mode)[1]


@pytest.mark.parametrize('mode, expected', [
    (dict(credit='uniform'), [.666665, .333332, -1.499991] * 2),
    (dict(credit='uniform', natural=True), [0, -.333332, -2.166656] * 2),
    (dict(credit='uniform', form='paper', weight=1.), [0, -.5, -2] * 2),
    # means 1/3 and 2/3: shares 2/3 1/3 of the first paper, halves of the second (0 in sum), 1/3 2/3 of the third
    (dict(credit='sum_mean'), [.444443, .166666, -.499997, .222222, .166666, -.999994]),
    (dict(credit='std'), [1.154696, .577348, -2.598061] * 2),      # both questions have the deviation .577350
    (dict(credit='score'), [.333332, .499998, -2.249987, .333332, .166666, -2.249987])], ids=str)
def test_worked_example(mode, expected):
  """The papers have 2 1 0 right of two; the first three were printed by the released code or stand in the paper's own form."""
  np.testing.assert_allclose(exam([1, 0, 0], [1, 1, 0], **mode), expected, atol=3e-6)


def test_papers_with_one_score_are_not_blown_up():
  """As released the deviation 0 is divided by: 1e-6 stands under the advantage."""
  got = exam([1, 1], [1, 1], credit='uniform')
  assert np.isfinite(got).all() and np.abs(got).max() < 10


@functools.cache
def forest(grown, seed):
  """The prompt without an episode stands last, so that it belongs to no bundle or to the last."""
  f, rng = getattr(forests, grown)(seed), random.Random(seed)
  order = sorted(range(len(f.parent)), key=lambda i: f.group[i] == 3)
  take = lambda x: [x[i] for i in order]
  new = {old: i for i, old in enumerate(order)} | {-1: -1}
  names = {old: i for i, old in enumerate([0, 1, 2, 4, 5, 6, 3])}
  reward = {k: take(x) for k, x in f.reward.items()}
  reward['score'] = [rng.random() if end else 0. for end in take(f.end)]
  reward['win'] = [float(rng.random() < .5) if end else 0. for end in take(f.end)]
  f = f._replace(parent=[new[p] for p in take(f.parent)], group=[names[g] for g in take(f.group)], end=take(f.end), reward=reward,
                 judged={k: take(x) for k, x in f.judged.items()}, state=take(f.state))
  return f, f.batch(toy)


@pytest.mark.parametrize('grown', ['chains', 'trees'])
@pytest.mark.parametrize('mode', [
    dict(credit='uniform', bundle=2), dict(bundle=3, credit='uniform'), dict(), dict(credit='std', natural=True, high=.9, bundle=2),
    dict(credit='score', channel='win', bundle=2), dict(credit='uniform', form='paper', weight=.5, bundle=3),
    dict(credit='uniform', low=.32, high=.69, weight=.75, bundle=2), dict(credit='uniform', channel='format', bundle=2)], ids=str)
def test_first_batch(grown, mode):
  f, batch = forest(grown, 0)
  mode = dict(channel='score') | mode
  state, got = run(None, batch, **mode)
  q, want = twin(f, None, **mode)
  np.testing.assert_allclose(quantiles(state), q, atol=1e-6)
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize('grown', ['chains', 'trees'])
@pytest.mark.parametrize('mode', [
    dict(), dict(bundle=3, credit='uniform', quantile_rate=.5), dict(bundle=3, form='paper', credit='uniform')], ids=str)
def test_the_quantiles_follow_the_batches(grown, mode):
  """A batch is judged by the quantiles of those before it, then moves them."""
  mode = dict(channel='score') | mode
  state, q = None, None
  for seed in (0, 1, 2):
    f, batch = forest(grown, seed)
    state, got = run(state, batch, **mode)
    q, want = twin(f, q, **mode)
    np.testing.assert_allclose(quantiles(state), q, atol=1e-6)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-5)


def test_unknown_modes():
  for wrong in (dict(credit='even'), dict(form='draft')):
    with pytest.raises(ValueError):
      exam([1, 0], **wrong)
