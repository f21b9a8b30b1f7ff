"""The GAE of T-PPO (arXiv:2506.15050, from notes: EGAE, and a critic trained on finished sequences) and an independent twin."""

import functools
import math

import forests
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.egae import egae


def returns(f, places, values, live, reward, gamma, lam, bootstrap):
  """(row, column) of each trained token of `live` -> r_t + gamma ((1 - lam) V_t+1 + lam R_t+1), the mean over next steps."""
  out = {}
  ahead = lambda at: (1 - lam) * values[at] + lam * out[at]
  for step in reversed(range(len(f.parent))):
    if step not in live:
      continue
    following = [ahead(places[s][0]) for s in live if f.parent[s] == step]
    follow = sum(following) / len(following) if following else 0.
    if bootstrap and f.end[step] == 2:    # cut off: what comes is worth what the last token was
      follow = values[places[step][-1]]
    for at in reversed(places[step]):
      out[at] = (reward[step] if at == places[step][-1] else 0.) + gamma * follow
      follow = ahead(at)
  return out


def twin(f, batch, *, channel='task', head='value', gamma=1., lam=.95, whiten=False):
  values = np.asarray(batch.tokens.stream[f'value/{head}']).astype(float)
  places = {}
  for sequence in forests.sequences(batch):
    for r, t, step, own in sequence:
      if own:
        places.setdefault(step, []).append((r, t))
  paths = [steps for found in forests.episodes(f, channel).values() for steps, _ in found]
  live = {s for steps in paths for s in steps}
  finished = {s for steps in paths for s in steps if f.end[steps[-1]] == 1}
  over = {s for i, end in enumerate(f.end) if end in (1, 2) for s in forests.path(f.parent, i)}   # judged or not
  adv, target = np.zeros(values.shape), np.zeros(values.shape)
  guess = returns(f, places, values, live, f.reward[channel], gamma, lam, True)
  credited = [r - values[at] for at, r in guess.items()]
  mean = sum(credited) / len(credited) if whiten else 0.
  spread = math.sqrt(sum((a - mean) ** 2 for a in credited) / (len(credited) - 1) + 1e-8) if whiten else 1.
  for at, r in guess.items():
    adv[at] = (r - values[at] - mean) / spread
  for at in (at for s in over for at in places[s]):
    target[at] = values[at]
  for at, r in returns(f, places, values, finished, f.reward[channel], gamma, 1., False).items():
    target[at] = r
  return adv, target


V = [.2, .4, .5, .6]


@pytest.mark.parametrize('end, task, gamma, adv, target', [
    (2, 0., 1., [.38525, .195, .1, 0.], V),                    # cut off: nothing to learn for the critic
    (1, 1., 1., [.7282, .556, .48, .4], [1, 1, 1, 1]),
    (1, 0., 1., [-.129175, -.3465, -.47, -.6], [0, 0, 0, 0]),  # and what the first would have if cutting it off were an end
    (1, 1., .5, [-.073506, -.15475, -.01, .4], [.125, .25, .5, 1]),   # delta 0 -.15 -.2 .4, gamma lambda .475
    (3, 1., 1., [0, 0, 0, 0], [0, 0, 0, 0]),
])
def test_worked_example(end, task, gamma, adv, target):
  batch = toy.batch([-1], n_tokens=4, end=[end], task=[task], stream={'value/value': [V]})
  got = forests.run(egae, batch, gamma=gamma, whiten=False)
  np.testing.assert_allclose(got.adv, [adv], atol=1e-5)
  np.testing.assert_allclose(got.target['value'], [target], atol=1e-5)


def test_an_episode_without_a_verdict_teaches_nothing():
  b = toy.batch([-1, -1], task=[1, 0], judged=dict(task=[True, False]), stream={'value/value': [.7, .4]})
  got = forests.run(egae, b, whiten=False)
  np.testing.assert_allclose(got.adv, [[.3], [0.]], atol=1e-6)
  np.testing.assert_allclose(got.target['value'], [[1.], [.4]], atol=1e-6)


def test_a_shared_step_learns_from_what_finished():
  # step 0 (V .5) leads to an episode that is done (return 1) and to one that was cut off (V .2)
  b = toy.batch([-1, 0, 0], end=[0, 1, 2], task=[0, 1, 0], stream={'value/value': [.5, .8, .2]})
  got = forests.run(egae, b, lam=1., whiten=False)
  np.testing.assert_allclose(got.adv, [[.1, .2], [0, 0]], atol=1e-6)     # (1 + .2) / 2 - .5
  np.testing.assert_allclose(got.target['value'], [[1, 1], [0, .2]], atol=1e-6)


@functools.cache
def forest(kind, seed, pack):
  f = getattr(forests, kind)(seed)
  n = range(len(f.parent))
  batch = f.batch(toy, pack=pack, n_tokens=[1 + (i * 5 + seed) % 3 for i in n], n_obs=[(i * 7 + seed) % 3 for i in n])
  rng = np.random.default_rng(seed)
  return f, forests.with_stream(batch, **{k: rng.normal(size=batch.tokens.node.shape) for k in ('value/value', 'value/critic')})


@pytest.mark.parametrize('kind, seed, pack', [('chains', 0, 2), ('chains', 1, 1), ('trees', 0, 1), ('trees', 1, 2)])
@pytest.mark.parametrize('mode', [
    dict(), dict(whiten=True), dict(gamma=.9, lam=.5, whiten=True),
    dict(channel='format', gamma=.9, lam=1., whiten=False, head='critic')], ids=str)
def test_twin(kind, seed, pack, mode):
  f, batch = forest(kind, seed, pack)
  answer, (adv, target) = forests.run(egae, batch, **mode), twin(f, batch, **mode)
  np.testing.assert_allclose(answer.adv, adv, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(answer.target[mode.get('head', 'value')], target, rtol=1e-4, atol=1e-5)
