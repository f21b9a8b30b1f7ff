"""HiPER's three advantages (arXiv:2602.16165; JonP07/HiPER-agent@9d3c118b `compute_hae_advantage`) and an independent twin."""

import dataclasses
import functools
import math
import random

import forests
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import toy
from rlx.estimators.hiper import hiper
from rlx.types import Advantages

# what a step says, a letter a token: s switch, p plan, a action, f free thought, which gets nothing
LAYOUTS = ('spa', 'sspa', 'spfa', 'fspa', 'sppa', 'spaa', 'sa', 'pa', 'a', 'fsa', 'spf', 'f')
ROLES = dict(switch='s', plan='p', action='a')


def own(batch):
  """step -> its trained tokens in order."""
  found = {}
  for sequence in forests.sequences(batch):
    for r, t, step, trained in sequence:
      if trained:
        found.setdefault(step, []).append((r, t))
  return found


def places(said, tokens):
  """head -> where its value stands: V^hi at the first token, V^lo where the action begins (or the step), V^term the switch."""
  return dict(high=tokens[0], low=tokens[max(said.find('a'), 0)], term=tokens[max(said.find('s'), 0)])


def twin(f, batch, layout, switch, *, channel='task', gamma=1., lam=1., lam_segment=.95, norm=True, ddof=0, eps=1e-8,
         bootstrap=False, heads=('low', 'high', 'term')):
  live = sorted({s for found in forests.episodes(f, channel).values() for steps, _ in found for s in steps})
  kids = {s: [c for c in live if f.parent[c] == s] for s in live}
  opens = {s: f.parent[s] < 0 or switch[s] for s in live}                 # b_0 = 0, and every turn that switches
  tokens, v = own(batch), {}
  for name, head in zip(('low', 'high', 'term'), heads):
    stream = np.asarray(batch.tokens.stream[f'value/{head}']).tolist()
    v[name] = {s: stream[r][t] for s in live for r, t in [places(layout[s], tokens[s])[name]]}

  def ahead(s, value, cut):   # gamma x the mean over next turns; an episode that was cut off may go on with a value
    if kids[s]:
      return gamma * sum(map(value, kids[s])) / len(kids[s])
    return gamma * cut if bootstrap and f.end[s] == 2 else 0.

  low, high, plan, after = {}, {}, {}, {}
  for s in reversed(live):
    r, start = f.reward[channel][s], s
    while not opens[start]:
      start = f.parent[start]
    hi = v['high']
    low[s] = r + ahead(s, lambda c: hi[c] if opens[c] else v['low'][c] + lam * low[c], v['low'][s]) - v['low'][s]
    plan[s] = r + ahead(s, lambda c: hi[c] + lam_segment * high[c] if opens[c] else plan[c], hi[start])
    after[s] = r + ahead(s, lambda c: hi[c] if opens[c] else after[c], hi[start])   # cut off: as the plan's, a guess
    high[s] = plan[s] - hi[s]
  term = {s: after[s] - v['term'][s] for s in live}

  def normalised(x, pool):    # over turns whose block is not empty, each block by itself
    if not norm:
      return x
    mean = sum(x[s] for s in pool) / len(pool)
    std = math.sqrt(sum((x[s] - mean) ** 2 for s in pool) / (len(pool) - ddof))
    return {s: (x[s] - mean) / (std + eps) for s in pool}

  parts = [(lambda s, k: k == 'a' or 'a' not in layout[s], normalised(low, live)),         # no action: all of it is
           (lambda s, k: k == 'p' and opens[s], normalised(high, [s for s in live if opens[s] and 'p' in layout[s]])),
           (lambda s, k: k == 's', normalised(term, [s for s in live if 's' in layout[s]]))]
  adv = np.zeros(batch.tokens.node.shape)
  for s in live:
    for at, k in zip(tokens[s], layout[s], strict=True):
      adv[at] = sum(x[s] for inside, x in parts if inside(s, k))
  target = dict(low={s: low[s] + v['low'][s] for s in live}, high={s: high[s] + v['high'][s] for s in live if opens[s]},
                term={s: after[s] for s in live if 's' in layout[s]})
  return adv, target


def with_roles(batch, layout):
  """The blocks, on every sampled token (of a shared prefix too)."""
  role = {k: np.zeros(batch.tokens.node.shape, bool) for k in ROLES}
  sampled = np.asarray(batch.tokens.sampled)
  for sequence in forests.sequences(batch):
    said = {}
    for r, t, step, _ in sequence:
      if sampled[r, t]:
        said[step] = said.get(step, -1) + 1
        for k, letter in ROLES.items():
          role[k][r, t] = layout[step][said[step]] == letter
  role = {k: jnp.asarray(x) for k, x in role.items()}
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, role=role))


def worked(**columns):
  # r = 0 0 0 1, SWITCH at turns 0 and 2; V^lo .3 .4 .5 .6, V^hi .2 and .45 at the boundaries, V^term .25 .35 .5 .55
  batch = toy.batch([-1, 0, 1, 2], task=[0, 0, 0, 1], n_tokens=4, label=dict(switch=[1, 0, 1, 0]), **columns)
  return with_roles(batch, ['spfa'] * 4)


V = dict(low=[.3, .4, .5, .6], high=[.2, 7., .45, 7.], term=[.25, .35, .5, .55])
RAW = dict(a=[.0643, .005, .382, .4], p=[.5108, 0, .45, 0], s=[.1145, .055, .4, .45])
# each by itself: (x - mean) / population std, the plan's over its two boundaries; worked by hand from the exact numbers
# .064275 .005 .382 .4 (mean .212819, std .179522), .510775 .45 and .1145 .055 .4 .45 (.254875, .172330)
WHITE = dict(a=[-.8274, -1.1576, .9424, 1.0427], p=[1, 0, -1, 0], s=[-.8146, -1.1598, .8421, 1.1323])


@pytest.mark.parametrize('norm, expected', [(False, RAW), (True, WHITE)])
@pytest.mark.parametrize('where', ['stream', 'value'])
def test_worked_example(norm, expected, where):
  columns = dict(stream={f'value/{k}': x for k, x in V.items()}) if where == 'stream' else dict(value=V)
  got = forests.run(hiper, worked(**columns), gamma=.9, lam=.95, lam_segment=.95, norm=norm)
  want = [[expected[k][turn] if k in expected else 0. for turn in range(4) for k in 'spfa']]
  np.testing.assert_allclose(got.adv, want, atol=1e-4)
  assert set(got.target) == {'low', 'high', 'term'}
  # A + V and G, whatever the normalisation: .064275 + .3 ..., .510775 + .2 and .45 + .45, .1145 + .25 ...
  for head, turn, at, ret in [*zip(['low'] * 4, range(4), [3] * 4, [.364275, .405, .882, 1.]), ('high', 0, 0, .710775),
                              ('high', 2, 0, .9), *zip(['term'] * 4, range(4), [0] * 4, [.3645, .405, .9, 1.])]:
    x = got.target[head]
    np.testing.assert_allclose(x[turn] if x.ndim == 1 else x[0, 4 * turn + at], ret, atol=1e-5)


def test_cut_off():
  # the example again, cut off at turn 3 without the reward: V^lo_3 = .6 follows turn 3, and for the plan V^hi of its own
  # segment, .45: plan .9^2 .45 - .45 = -.0855 and .81 (.45 + .95 (-.0855)) - .2 = .098708
  batch = worked(stream={f'value/{k}': x for k, x in V.items()})
  batch = dataclasses.replace(batch, nodes=dataclasses.replace(batch.nodes, end=jnp.asarray([0, 0, 0, 2]),
                                                               reward=dict(task=jnp.zeros(4))))
  mode = dict(gamma=.9, lam=.95, lam_segment=.95, norm=False)
  on, off = (np.asarray(forests.run(hiper, batch, bootstrap=b, **mode).adv)[0].reshape(4, 4) for b in (True, False))
  np.testing.assert_allclose(on[:, 3], [.064275, .005, -.0113, -.06], atol=1e-5)   # .9 .6 - .6, .9 .6 - .5 + .855 (-.06)
  np.testing.assert_allclose(on[:, 1], [.098708, 0, -.0855, 0], atol=1e-5)
  np.testing.assert_allclose(off[:, 3], [.064275, .005, -.473, -.6], atol=1e-5)    # nothing follows: as where it is done
  np.testing.assert_allclose(off[:, 1], [.81 * (.45 - .95 * .45) - .2, 0, -.45, 0], atol=1e-5)


def test_the_form_of_the_paper():
  # (q - b)(V^hi - V^lo), b the probability of SWITCH: KEEP was said with .8, SWITCH with .9, KEEP with .5;
  # turn 0 has no plan to leave
  logp = np.log([[1., 1, 1, 1, .8, 1, 1, 1, .9, 1, 1, 1, .5, 1, 1, 1]])
  batch = worked(stream={f'value/{k}': x for k, x in V.items()}, logp=logp)
  got = forests.run(hiper, batch, gamma=.9, lam=.95, norm=False, switch='paper')
  np.testing.assert_allclose(got.adv[0, ::4], [0, -.2 * (7 - .4), (1 - .9) * (.45 - .5), -.5 * (7 - .6)], atol=1e-5)
  np.testing.assert_allclose(got.adv[0, 1::4], RAW['p'], atol=1e-4)
  assert set(got.target) == {'low', 'high'}
  white = forests.run(hiper, batch, gamma=.9, lam=.95, switch='paper').adv[0, 4::4]
  np.testing.assert_allclose([white.mean(), white.std()], [0, 1], atol=1e-5)        # turn 0 does not count


def test_where_there_is_nothing_to_learn_the_target_is_the_prediction():
  batch = worked(stream={f'value/{k}': x for k, x in V.items()})
  got = forests.run(hiper, batch, gamma=.9, lam=.95).target
  for head, learnt in dict(high=[0, 8], low=[3, 7, 11, 15], term=[0, 4, 8, 12]).items():
    same = np.isclose(got[head], batch.tokens.stream[f'value/{head}'])[0]
    assert np.flatnonzero(~same).tolist() == learnt


def test_unknown_mode():
  with pytest.raises(ValueError):
    hiper(worked(stream={f'value/{k}': x for k, x in V.items()}), switch='other')


@functools.cache
def forest(make, seed, pack):
  f, rng = getattr(forests, make)(seed), random.Random(seed)
  layout = [rng.choice(LAYOUTS) for _ in f.parent]
  switch = [int(rng.random() < .45) for _ in f.parent]
  batch = f.batch(toy, pack=pack, n_tokens=[len(s) for s in layout], n_obs=[rng.randint(0, 1) for _ in layout],
                  label=dict(switch=switch))
  draw = np.random.default_rng(seed)
  columns = {f'value/{k}': draw.normal(size=batch.tokens.node.shape) for k in ('low', 'high', 'term', 'other')}
  return f, forests.with_stream(with_roles(batch, layout), **columns), layout, switch


@pytest.mark.parametrize('make, seed, pack', [('chains', 0, 1), ('chains', 1, 2), ('trees', 2, 1), ('trees', 3, 1)])
@pytest.mark.parametrize('mode', [
    dict(norm=False), dict(), dict(gamma=.9, lam=.8, lam_segment=.6, norm=False), dict(gamma=.9, lam=0., lam_segment=0.),
    dict(channel='format', gamma=.5, ddof=1, eps=.25), dict(low='other', norm=False),
    dict(gamma=.9, lam=.8, bootstrap=True, norm=False), dict(gamma=.9, bootstrap=True)], ids=str)
def test_twin(make, seed, pack, mode):
  f, batch, layout, switch = forest(make, seed, pack)
  got = forests.run(hiper, batch, **mode)
  heads = [mode.get(k, k) for k in ('low', 'high', 'term')]
  adv, target = twin(f, batch, layout, switch, **{k: x for k, x in mode.items() if k != 'low'}, heads=heads)
  assert isinstance(got, Advantages) and got.adv.shape == batch.tokens.node.shape
  np.testing.assert_allclose(got.adv, adv, rtol=1e-4, atol=1e-5)
  tokens = own(batch)
  for name, head in zip(('low', 'high', 'term'), heads):
    x = np.asarray(got.target[head])
    at = [s if x.ndim == 1 else places(layout[s], tokens[s])[name] for s in target[name]]
    np.testing.assert_allclose([x[i] for i in at], list(target[name].values()), rtol=1e-4, atol=1e-5)
