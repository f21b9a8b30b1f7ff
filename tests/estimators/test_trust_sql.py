"""TRUST-SQL's two tracks (arXiv:2603.16448; stulove123/TRUST-SQL-@8cf260a0 `loss.py`) made of GRPO, and a twin."""

import functools
import inspect
import math
import random

import forests
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import average, masked, toy
from rlx.estimators.grpo import grpo
from rlx.estimators.trust_sql import trust_sql
from rlx.losses.ppo_clip import ppo_clip
from rlx.selectors.credited import credited
from rlx.selectors.where import where
from rlx.types import Out

TRACK = dict(ddof=0, clip=10.)      # population std + 1e-6, clipped to [-10, 10]


def objective(batch, advs, logp, coef):
  """L = PG(A^answer; all tokens) + coef PG(A^schema; tokens up to the proposal), each averaged over its own mask."""
  total, loss = 0., ppo_clip()
  for channel, label, weight in (('answer', None, 1.), ('schema', 'explore', coef)):
    keep = where(batch, credited(batch, batch.tokens.mask), label=label)
    kept = masked.narrow(batch, keep)
    adv = jnp.where(keep, masked.to_tokens(advs[channel], batch.tokens), 0.)
    term = loss.term(Out(logp=logp, entropy=jnp.zeros_like(logp), value={}, extra={}), kept, adv, ())
    num, den = average.seq_mean(kept, keep)
    total += weight * jnp.sum(term * num) / jnp.sum(den)
  return total


learn = jax.jit(jax.value_and_grad(objective, argnums=2))


def advantage(f, channel, clip=10., eps=1e-6):
  """One number a step: those of rollouts that were not aborted; with one such rollout 0."""
  out = [0.] * len(f.parent)
  for found in forests.episodes(f, channel).values():
    mean = sum(r for _, r in found) / len(found)
    std = math.sqrt(sum((r - mean) ** 2 for _, r in found) / len(found))
    for steps, r in found:
      for s in steps:
        out[s] = max(-clip, min(clip, (r - mean) / (std + eps)))
  return out


def twin(f, batch, explore, logp, coef, *, range_=.2):
  old, grad, total = np.asarray(batch.tokens.logp), np.zeros(batch.tokens.node.shape), 0.
  live = {s for found in forests.episodes(f, 'answer').values() for steps, _ in found for s in steps}
  for channel, weight in (('answer', 1.), ('schema', coef)):
    adv = advantage(f, channel)
    samples = [[(r, t, s) for r, t, s, own in sequence if own and s in live and (channel == 'answer' or explore[s])]
               for sequence in forests.sequences(batch)]
    samples = [s for s in samples if s]
    for sample in samples:
      for r, t, s in sample:
        ratio, w = math.exp(logp[r, t] - old[r, t]), weight / len(samples) / len(sample)
        whole, cut = -adv[s] * ratio, -adv[s] * max(1 - range_, min(1 + range_, ratio))
        total += w * max(whole, cut)
        grad[r, t] += w * whole if whole >= cut else 0.
  return total, grad


def test_worked_example():
  # four rollouts, the 4th aborted: R_sch = 1 0 0, R_ans = 1.1 .3 0; two turns each, the schema's and the answer's
  batch = toy.batch([-1, 0, -1, 2, -1, 4, -1, 6], end=[0, 1, 0, 1, 0, 1, 0, 3], n_tokens=[1, 3, 2, 1, 1, 1, 1, 1],
                    schema=[0, 1, 0, 0, 0, 0, 0, -1], answer=[0, 1.1, 0, .3, 0, 0, 0, -1], label=dict(explore=[1, 0] * 4))
  schema, answer = (forests.run(grpo, batch, channel=c, **TRACK) for c in ('schema', 'answer'))
  np.testing.assert_allclose(schema, np.repeat([1.4142, -.7071, -.7071, 0], 2), atol=1e-4)
  np.testing.assert_allclose(answer, np.repeat([1.3641, -.3590, -1.0051, 0], 2), atol=1e-4)
  # at ratio 1 a token's gradient is -A / (its rollout's tokens in the track) / (rollouts), coef .25 on the schema's:
  # rollout 0, first token: -1.3641 / 4 / 3 - .25 x 1.4142 / 1 / 3 = -.11367 - .11785; its others -.11367
  # rollout 1: its first two .3590 / 3 / 3 + .25 x .7071 / 2 / 3 = .03989 + .02946, the third .03989
  # rollout 2: 1.0051 / 2 / 3 + .25 x .7071 / 3 = .16752 + .05893, then .16752; the aborted one nothing
  advs = dict(schema=jnp.asarray(schema), answer=jnp.asarray(answer))
  value, grad = learn(batch, advs, batch.tokens.logp, jnp.float32(.25))
  np.testing.assert_allclose(grad, [[-.23152, -.11367, -.11367, -.11367], [.06935, .06935, .03989, 0], [.22645, .16752, 0, 0],
                                    [0, 0, 0, 0]], atol=2e-5)
  np.testing.assert_allclose(value, 0, atol=1e-6)       # the mean of A over rollouts is 0 in both tracks


def test_clipped_at_ten():
  # one of 145 is right: (1 - p) / sqrt(p (1 - p)) = sqrt(144) = 12, the others -1 / 12
  got = np.asarray(grpo(toy.batch([-1] * 145, task=[1] + [0] * 144), **TRACK))
  np.testing.assert_allclose(got, [10] + [-1 / 12] * 144, atol=1e-4)


@functools.cache
def forest(seed, pack):
  f, rng = forests.chains(seed), random.Random(seed)
  n = range(len(f.parent))
  f.reward['answer'] = [rng.choice([1., .2, 0., .1]) if e else 0. for e in f.end]
  f.reward['schema'] = [float(rng.random() < .4) for _ in n]
  depth = [len(forests.path(f.parent, i)) for i in n]
  explore = [int(d <= 1 + i % 2) for i, d in enumerate(depth)]
  batch = f.batch(toy, pack=pack, n_tokens=[rng.randint(1, 4) for _ in n], n_obs=[rng.randint(0, 2) for _ in n],
                  label=dict(explore=explore), logp=[-rng.random() for _ in n])
  return f, batch, explore


@pytest.mark.parametrize('seed, pack', [(0, 1), (1, 2)])
def test_value_and_gradient_of_two_tracks(seed, pack):
  f, batch, explore = forest(seed, pack)
  logp = np.asarray(batch.tokens.logp) + np.random.default_rng(seed).normal(scale=.3, size=batch.tokens.node.shape).astype('f')
  advs = {c: jnp.asarray(forests.run(grpo, batch, channel=c, **TRACK)) for c in ('answer', 'schema')}
  for c, adv in advs.items():
    np.testing.assert_allclose(adv, advantage(f, c), rtol=1e-5, atol=2e-6)
  for coef in (0., .25):        # without the schema's track: execution alone
    got = learn(batch, advs, jnp.asarray(logp), jnp.float32(coef))
    for g, w in zip(got, twin(f, batch, explore, logp, coef), strict=True):
      np.testing.assert_allclose(g, w, rtol=1e-4, atol=1e-6)


# ---- one loss: the modulator `trust_sql` ---------------------------------------------------------------------------------

def behind(batch, **mode):
  """The modulator as `forests.run` takes it: what it modulates stands in `value['adv']`."""
  return trust_sql(batch, batch.nodes.value['adv'], label='explore', **mode)


behind.__signature__ = inspect.signature(functools.partial(trust_sql, adv=None, label=None)).replace(
    parameters=[p for k, p in inspect.signature(trust_sql).parameters.items() if k not in ('adv', 'label')])


@pytest.mark.parametrize('form, before', [
    ('sum', [2.0712, -.7126, -1.3587, 0]),       # 1.3641 + .5 x 1.4142, -.3590 - .5 x .7071, -1.0051 - .5 x .7071
    ('scale', [2.0462, -.3590, -1.0051, 0])])    # 1.3641 x 1.5, the others found no schema
def test_worked_example_with_one_loss(form, before):
  batch = toy.batch([-1, 0, -1, 2, -1, 4, -1, 6], end=[0, 1, 0, 1, 0, 1, 0, 3], schema=[0, 1, 0, 0, 0, 0, 0, -1],
                    value=dict(adv=np.repeat([1.3641, -.3590, -1.0051, 0], 2).tolist()), label=dict(explore=[1, 0] * 4))
  got = forests.run(behind, batch, form=form)
  np.testing.assert_allclose(got[::2], before, atol=1e-4)
  np.testing.assert_allclose(got[1::2], [1.3641, -.3590, -1.0051, 0], atol=1e-6)


def single_twin(f, explore, adv, form, weight):
  found = forests.episodes(f, 'schema')
  if form == 'sum':
    more = {}
    for episodes in found.values():
      mean = sum(r for _, r in episodes) / len(episodes)
      std = math.sqrt(sum((r - mean) ** 2 for _, r in episodes) / len(episodes))
      more |= {steps[-1]: (steps, max(-10., min(10., (r - mean) / (std + 1e-6)))) for steps, r in episodes}
  else:
    more = {steps[-1]: (steps, r) for episodes in found.values() for steps, r in episodes}
  mean = forests.over_paths(f, more.values())
  return [a + (weight * m * (1. if form == 'sum' else a) if e else 0.) for a, m, e in zip(adv, mean, explore, strict=True)]


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('trees', 1), ('trees', 2)])
@pytest.mark.parametrize('form, weight', [('sum', .5), ('sum', .25), ('scale', .5)])
def test_twin_with_one_loss(grown, seed, form, weight):
  f, rng = getattr(forests, grown)(seed), random.Random(seed)
  n = range(len(f.parent))
  f.reward['schema'] = [float(rng.random() < .4) for _ in n]
  explore, adv = [rng.randint(0, 1) for _ in n], [rng.gauss(0., 1.) for _ in n]
  live = {s for found in forests.episodes(f, 'schema').values() for steps, _ in found for s in steps}
  adv = [a if s in live else 0. for s, a in enumerate(adv)]
  batch = f.batch(toy, label=dict(explore=explore), value=dict(adv=adv))
  np.testing.assert_allclose(forests.run(behind, batch, form=form, weight=weight), single_twin(f, explore, adv, form, weight),
                             rtol=1e-5, atol=2e-6)


def test_no_such_form():
  batch = toy.batch([-1], schema=[1], label=dict(explore=[1]))
  with pytest.raises(ValueError, match='product'):
    trust_sql(batch, grpo(batch, channel='schema'), form='product', label='explore')
