"""Shared prefixes: whatever is warm, whoever holds what, every path gets what an empty engine gives it."""

import threading
import time

import jax
import numpy as np
import pytest

from rlx.grow import _slots
from rlx.grow import engine as engines
from rlx.learn import mesh as meshes
from rlx.types import Model
from tests.grow import game


def key(n):
  return np.asarray(jax.random.key_data(jax.random.fold_in(game.KEY, n)))


def words(draw, n):
  return draw.integers(2, game.TOK.size, n).tolist()


class Alone:
  """An engine that forgets everything before each question."""

  def __init__(self):
    self.engine = game.engine()

  def speak(self, request):
    engines.refresh(self.engine, self.engine.model.params)
    return engines.speak(self.engine, [request._replace(slot=-1)])[0]

  def score(self, context, suffix):
    engines.refresh(self.engine, self.engine.model.params)
    return engines.score(self.engine, [context], [suffix])[0]


@pytest.mark.parametrize('limits', [dict(slots=4, buckets=()), dict(), dict(share=2), dict(lanes=2), dict(lanes=4)],
                         ids=('few', 'many', 'pairs', 'two lanes', 'four lanes'))
@pytest.mark.parametrize('seed', range(3))
def test_random_walk(seed, limits):
  """Paths begin, branch off one another, go on, are rewritten, leave their slots, and texts are scored beside them."""
  draw, e, alone = np.random.default_rng(seed), game.engine(**limits), Alone()
  roots, live, count = [words(draw, 70), words(draw, 14)], [], 0
  begin = lambda longer: list(longer[:draw.integers(1, len(longer) + 1)])
  some = lambda: live[draw.integers(len(live))][0] if live and draw.random() < .5 else roots[draw.integers(2)]
  for _ in range(30):
    move, vacant, asked = draw.choice(['new', 'on', 'leave', 'score'], p=[.35, .3, .15, .2]), engines.vacant(e), []
    if move == 'new':
      asked = [((begin(some()) + words(draw, draw.integers(0, 9)))[:84], -1) for _ in range(draw.integers(0, vacant + 1))]
    elif move == 'on':
      chosen = [i for i in range(len(live)) if draw.random() < .6]
      asked = [((begin(live[i][0]) if draw.random() < .2 else live[i][0])[:80] + words(draw, draw.integers(0, 4)), live[i][1]) for i in chosen]
      live = [x for i, x in enumerate(live) if i not in chosen]
    elif move == 'leave' and live:
      engines.free(e, live.pop(draw.integers(len(live)))[1])
    elif move == 'score' and vacant:
      contexts = [begin(some())[:80] for _ in range(3)]
      suffixes = [words(draw, draw.integers(1, 4)) for _ in contexts]
      for c, s, got in zip(contexts, suffixes, engines.score(e, contexts, suffixes), strict=True):
        np.testing.assert_allclose(got, alone.score(c, s), atol=1e-4)
    requests = [engines.Request(c, slot, key(count := count + 1), {}, 6) for c, slot in asked]
    for request, got in zip(requests, engines.speak(e, requests) if requests else [], strict=True):
      want = alone.speak(request)
      assert got.ids == want.ids
      np.testing.assert_allclose(got.logp, want.logp, atol=1e-4)
      live.append((list(request.context) + got.ids, got.slot))
  assert count > 5


@pytest.mark.parametrize('slots', [4, 16])
def test_nested_contexts(slots):
  """Every step of the paths of three trees is scored, in order and shuffled: slots link to slots that link to slots."""
  for shuffled in (False, True):
    draw, e, alone, contexts = np.random.default_rng(shuffled), game.engine(slots=slots, buckets=()), Alone(), []
    for root in (words(draw, 10), words(draw, 10)):
      for _ in range(3):
        path = root
        for _ in range(4):
          contexts.append(path)
          path = path + words(draw, draw.integers(3, 9))
    if shuffled:
      contexts = [contexts[i] for i in draw.permutation(len(contexts))]
    suffixes = [words(draw, draw.integers(1, 5)) for _ in contexts]
    for c, s, got in zip(contexts, suffixes, engines.score(e, contexts, suffixes), strict=True):
      np.testing.assert_allclose(got, alone.score(c, s), atol=1e-4)


def test_who_holds_a_prompt_reads_it_with_the_others():
  """Then no row of the call has a past of its own, and none is read; where one id of the prompt is read again, it is seen once."""
  draw = np.random.default_rng(0)
  e, prompts = game.engine(slots=16, width=engines.SMALL), [words(draw, 40), words(draw, 44)]
  asked = [engines.Request(prompts[i % 2], -1, key(i), {}, 6) for i in range(8)]
  slots = _slots.listen(e, asked)
  look, sizes = _slots.view(e, slots, 16)
  assert sizes['width'] == 0
  assert look['sharing'].base[:8].tolist() == [40, 44] * 4 and not look['sharing'].base[8:].any()
  holder = slots[0]
  e.length[holder] -= 1      # as when its logits are gone
  assert _slots.view(e, slots, 16)[0]['sharing'].base[0] == 39


def test_lanes_end_together():
  """An error in one lane is raised after the other has finished its turn: nothing goes on behind the caller's back."""
  e, ended = game.engine(lanes=2), threading.Event()
  def f(lane, base, part):
    if base:
      time.sleep(.2)
      ended.set()
    else:
      raise RuntimeError('lane 0')
  with pytest.raises(RuntimeError, match='lane 0'):
    engines._together(e, [(e.lanes[0], 0, [0]), (e.lanes[1], 8, [1])], f)
  assert ended.is_set()


def test_lanes_need_one_device():
  """Programs of several devices, started by two threads, may wait for one another."""
  for devices in (1, 2):
    mesh = meshes.create(data=devices, devices=jax.devices()[:devices])
    model = Model(game.POLICY, jax.device_put(game.params(0), meshes.replicated(mesh)), game.TOK)
    assert len(engines.create(model, game.LIMITS._replace(lanes=2), game.STOP).lanes) == (2 if devices == 1 else 0)
  with pytest.raises(ValueError, match='3 lanes do not divide 16 slots'):
    game.engine(lanes=3)
