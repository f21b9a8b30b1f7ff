"""Slots: what is read and what is not, who disturbs whom (nobody), where an action stops. Figures are counted by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx.grow import engine as engines
from tests.grow import game

STRINGS = engines.Stop(strings=('ab', '<d', '5c', 'd4'))


def key(n=0):
  return np.asarray(jax.random.key_data(jax.random.fold_in(game.KEY, n)))


def ask(context, *, slot=-1, n=0, room=8, begun=0, **sampling):
  return engines.Request(context, slot, key(n), sampling, room, begun)


def ids(length, seed=0):
  """A context: any ids but the stops."""
  return np.random.default_rng((seed, length)).integers(2, game.TOK.size, length).tolist()


def same(a, b):
  assert a.ids == b.ids and a.text == b.text and a.stopped == b.stopped
  np.testing.assert_allclose(a.logp, b.logp, atol=1e-5, rtol=0)


# ---- reading ---------------------------------------------------------------------------------------------------------

def test_only_what_is_new_is_read():
  """20 ids; then what was drawn and 5 new ones: 5 are read; then the same again: none."""
  e = game.engine()
  first, = engines.speak(e, [ask(ids(20))])
  assert (e.read, e.drawn) == (20, len(first.ids))
  more = [*ids(20), *first.ids, *ids(5)]
  second, = engines.speak(e, [ask(more, slot=first.slot, n=1)])
  assert second.slot == first.slot and e.read == 25
  third, = engines.speak(e, [ask([*more, *second.ids], slot=first.slot, n=2)])
  assert e.read == 25, 'the logits behind the last drawn id are still there'
  fresh = game.engine()
  same(third, engines.speak(fresh, [ask([*more, *second.ids], n=2)])[0])
  assert fresh.read == 25 + len(first.ids) + len(second.ids)


def test_a_rewritten_context_is_read_from_where_it_differs():
  e = game.engine()
  said, = engines.speak(e, [ask(ids(20))])
  other = [*ids(20)[:12], *ids(6, 1)]
  assert other[12] != ids(20)[12]
  got, = engines.speak(e, [ask(other, slot=said.slot, n=3)])
  assert e.read == 20 + 6
  same(got, engines.speak(game.engine(), [ask(other, n=3)])[0])


def test_a_context_that_became_shorter_reads_its_last_id_again():
  e = game.engine()
  said, = engines.speak(e, [ask(ids(20))])
  got, = engines.speak(e, [ask(ids(20)[:15], slot=said.slot, n=3)])
  assert e.read == 20 + 1
  same(got, engines.speak(game.engine(), [ask(ids(20)[:15], n=3)])[0])


def test_paths_of_one_call_that_begin_alike_read_it_once():
  """Three answers to one prompt of 20; a fourth shares 10 of them and has 7 of its own; a fifth shares 3, fewer than copy_from."""
  e = game.engine()
  contexts = [ids(20)] * 3 + [[*ids(20)[:10], *ids(7, 1)], [*ids(20)[:3], *ids(9, 2)]]
  spoken = engines.speak(e, [ask(c, n=i) for i, c in enumerate(contexts)])
  assert e.read == 20 + 0 + 0 + 7 + 12
  assert len({s.slot for s in spoken}) == 5
  for i, (c, s) in enumerate(zip(contexts, spoken, strict=True)):
    same(s, engines.speak(game.engine(), [ask(c, n=i)])[0])
  assert len({tuple(s.ids) for s in spoken}) == 5


def test_a_branch_copies_the_prefix_of_a_path_that_goes_on():
  """The path of 20 + drawn + 4 stays in its slot; a branch behind its first action copies 20 + drawn and reads 2."""
  e = game.engine()
  said, = engines.speak(e, [ask(ids(20))])
  whole = [*ids(20), *said.ids, *ids(4)]
  went, = engines.speak(e, [ask(whole, slot=said.slot, n=1)])
  branch = [*ids(20), *said.ids, *ids(2, 5)]
  got, = engines.speak(e, [ask(branch, n=2)])
  assert got.slot != said.slot and e.read == 20 + 4 + 2
  same(got, engines.speak(game.engine(), [ask(branch, n=2)])[0])
  on, = engines.speak(e, [ask([*whole, *went.ids, *ids(3)], slot=said.slot, n=4)])
  assert e.read == 20 + 4 + 2 + 3, 'the path was not disturbed'
  same(on, engines.speak(game.engine(), [ask([*whole, *went.ids, *ids(3)], n=4)])[0])


def test_a_branch_below_a_path_that_has_left_its_slot():
  e = game.engine()
  said, = engines.speak(e, [ask(ids(20))])
  engines.free(e, said.slot)
  got, = engines.speak(e, [ask([*ids(20), *said.ids, *ids(2)], n=1)])
  assert got.slot == said.slot and e.read == 20 + 2, 'it simply goes on'


def test_vacant_slots_are_taken_in_the_order_they_were_used_and_warm_ones_last():
  e = game.engine(slots=4, buckets=())
  slots = [engines.speak(e, [ask(ids(20, i), n=i)])[0].slot for i in range(4)]
  assert sorted(slots) == [0, 1, 2, 3]
  for s in slots[1:]:
    engines.free(e, s)
  got, = engines.speak(e, [ask(ids(12, 9))])
  assert got.slot == slots[1]
  got, = engines.speak(e, [ask(ids(20, 2)[:10], n=1)])
  assert got.slot == slots[2], 'the oldest vacant one; it happens to begin alike, so nothing is copied'
  assert e.read == 4 * 20 + 12 + 1
  with pytest.raises(ValueError, match='2 new paths want to speak at once, 1 of 4 slots are vacant'):
    engines.speak(e, [ask(ids(5)), ask(ids(6))])


def test_new_parameters_forget_everything():
  e, other = game.engine(), game.engine(seed=1)
  said, = engines.speak(e, [ask(ids(20))])
  engines.refresh(e, game.params(1))
  assert engines.vacant(e) == 16
  got, = engines.speak(e, [ask(ids(20))])
  assert e.read == 40 and got.ids != said.ids
  same(got, engines.speak(other, [ask(ids(20))])[0])
  assert got.slot == 0, 'slots are given as in a fresh run'


def test_what_does_not_fit_is_refused():
  e = game.engine()
  with pytest.raises(ValueError, match='a context of 89 ids and a turn of 8 do not fit the 96 ids of a slot'):
    engines.speak(e, [ask(ids(89))])
  engines.speak(e, [ask(ids(88))])
  with pytest.raises(ValueError, match='a context of 90 ids and a turn of 7'):
    engines.score(e, [ids(90)], [ids(7)])
  assert len(engines.score(e, [ids(90)], [ids(6)])[0]) == 6
  with pytest.raises(ValueError, match='empty context'):
    engines.speak(e, [ask([])])


def test_a_call_under_way_does_not_see_what_the_host_does_next():
  """Calls run behind the host's back and read its memory where that is aligned: five chunks are read behind a slow product."""
  e = game.engine()
  memory = np.zeros(32, np.int32)
  e.length = memory[-memory.ctypes.data % 64 // 4:][:16]
  slow = jnp.ones((600, 600))
  for _ in range(8):
    slow = slow @ slow * .001
  e.slots = dataclasses.replace(e.slots, logits=e.slots.logits + 0. * slow[0, 0])
  got, = engines.speak(e, [ask(ids(40))])
  same(got, engines.speak(game.engine(), [ask(ids(40))])[0])


# ---- drawing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('temperature', [1., .7])
def test_log_probabilities_by_hand(temperature):
  e = game.engine()
  got, = engines.speak(e, [ask(ids(20), temperature=temperature)])
  by_hand = game.logp_by_hand([*ids(20), *got.ids], temperature=temperature)[19:]
  np.testing.assert_allclose(got.logp, by_hand, atol=1e-4)
  np.testing.assert_array_equal(got.sampler_logp, got.logp)


def test_greedy_and_truncated_draws_by_hand():
  """At top-k 2 the sampler's own probabilities are those of two ids; `logp` stays that of all."""
  e = game.engine()
  greedy, cut, plain = engines.speak(e, [ask(ids(20), temperature=0.), ask(ids(20), n=1, top_k=2), ask(ids(20), n=2)])
  for spoken in (greedy, cut):
    for i, (token, lp, own) in enumerate(zip(spoken.ids, spoken.logp, spoken.sampler_logp, strict=True)):
      before = [*ids(20), *spoken.ids[:i]]
      every = game.logits_by_hand(before)[-1]
      best = np.sort(every)[::-1]
      assert abs(lp - every[token]) < 1e-4
      if spoken is greedy:
        assert every[token] == best[0]
      else:
        assert every[token] >= best[1]
        assert abs(own - (every[token] - np.log(np.exp(best[:2]).sum()))) < 1e-4 and own > lp + .1
    if spoken is greedy:
      assert len(greedy.ids) == 8
  same(plain, engines.speak(game.engine(), [ask(ids(20), n=2)])[0])   # a neighbour's top-k is not one's own


@pytest.mark.parametrize('limits', [dict(slots=4, buckets=()), dict(slots=7, buckets=(2, 4)), dict(slots=16, buckets=(4,))])
def test_neighbours_do_not_matter(limits):
  """A path draws the same alone and among others, in any bucket, any slot and any order, with any chunking of what it reads."""
  alone = [engines.speak(game.engine(), [ask(ids(10 + i), n=i)])[0] for i in range(4)]
  e = game.engine(**limits)
  spoken = engines.speak(e, [ask(ids(10 + i), n=i) for i in (2, 0, 3, 1)])
  for i, s in zip((2, 0, 3, 1), spoken, strict=True):
    same(s, alone[i])


def test_stop_ids_stay_and_nothing_follows_them():
  e = game.engine(engines.Stop(ids=(2, 13)))
  spoken = engines.speak(e, [ask(ids(10), n=i) for i in range(16)])
  assert {s.stopped for s in spoken} == {True, False}
  for s in spoken:
    stops = [i for i, t in enumerate(s.ids) if t in (2, 13)]
    assert stops == ([len(s.ids) - 1] if s.stopped else []) and (s.stopped or len(s.ids) == 8)
    assert s.text == game.TOK.decode(s.ids) and len(s.logp) == len(s.entropy) == len(s.ids)


def test_stop_strings_end_the_action_and_what_follows_is_forgotten():
  """Room for 20, looked at every 8: ids behind the string are neither in the action nor in what the slot has read."""
  e = game.engine(STRINGS, turn=20)
  spoken = engines.speak(e, [ask(ids(10), n=i, room=20) for i in range(16)])
  assert sum(s.stopped for s in spoken) > 4 and not all(s.stopped for s in spoken)
  long = [s for s in spoken if s.stopped and len(s.ids) > 8]
  assert long, 'one stops in a later segment'
  for s in spoken:
    held = [n for n in range(1, len(s.ids) + 1) if any(x in game.TOK.decode(s.ids[:n]) for x in STRINGS.strings)]
    assert held == ([len(s.ids)] if s.stopped else []) and (s.stopped or len(s.ids) == 20)
    assert e.length[s.slot] == 10 + len(s.ids) and e.known[s.slot, 10:e.length[s.slot]].tolist() == s.ids
    np.testing.assert_allclose(s.logp, game.logp_by_hand([*ids(10), *s.ids])[9:], atol=1e-4)
  read = e.read
  s = long[0]
  on, = engines.speak(e, [ask([*ids(10), *s.ids, *ids(4)], slot=s.slot, n=40, room=20)])
  assert e.read == read + 4
  same(on, engines.speak(game.engine(STRINGS, turn=20), [ask([*ids(10), *s.ids, *ids(4)], n=40, room=20)])[0])
  # without any stop, the same draws go on behind it
  free = game.engine(engines.Stop(strings=('::::::::::::',)), turn=20)
  whole = engines.speak(free, [ask(ids(10), n=i, room=20) for i in range(16)])
  assert all(w.ids[:len(s.ids)] == s.ids and len(w.ids) == 20 for s, w in zip(spoken, whole, strict=True))


def test_a_stop_string_may_begin_in_what_the_action_had_already_said():
  """'<' was forced: 'd' ends the action. Where '<' belongs to the observation it does not; nor does a string that was forced whole."""
  less, d = game.TOK.encode('<')[0], game.TOK.encode('d')[0]
  context = [*ids(10), less]
  e = game.engine(STRINGS, turn=20)
  n = next(n for n in range(200) if engines.speak(game.engine(STRINGS, turn=20), [ask(context, n=n, room=1)])[0].ids == [d])
  begun, = engines.speak(e, [ask(context, n=n, room=20, begun=1)])
  heard, = engines.speak(e, [ask(context, n=n, room=20)])
  assert (begun.ids, begun.text, begun.stopped) == ([d], 'd', True)
  assert heard.ids[0] == d and len(heard.ids) > 1
  forced, = engines.speak(e, [ask([*context, d], n=n, room=20, begun=2)])
  assert len(forced.ids) > 1


# ---- scoring ---------------------------------------------------------------------------------------------------------

def test_scores_by_hand_in_as_many_slots_as_are_vacant():
  """Five contexts, two vacant slots of four; one context twice; suffixes of unequal length, one empty, one longer than a chunk."""
  e = game.engine(slots=4, buckets=())
  held = engines.speak(e, [ask(ids(10, 7)), ask(ids(11, 7), n=1)])
  assert engines.vacant(e) == 2
  contexts = [ids(12), ids(12), ids(9, 1), ids(30, 2), ids(3, 3)]
  suffixes = [ids(3, 4), ids(5, 5), [], ids(11, 6), ids(1, 7)]
  scores = engines.score(e, contexts, suffixes)
  for c, s, got in zip(contexts, suffixes, scores, strict=True):
    assert got.shape == (len(s),)
    np.testing.assert_allclose(got, game.logp_by_hand([*c, *s])[len(c) - 1:], atol=1e-4)
  assert engines.vacant(e) == 2
  went, = engines.speak(e, [ask([*ids(10, 7), *held[0].ids, *ids(2)], slot=held[0].slot, n=5)])
  same(went, engines.speak(game.engine(), [ask([*ids(10, 7), *held[0].ids, *ids(2)], n=5)])[0])
  assert engines.score(e, [], []) == []


def test_scores_use_what_is_warm():
  """Behind a path of 20 + drawn: a suffix of 4 reads 4; in the middle of it, 6 more ids of context and 4."""
  e = game.engine()
  said, = engines.speak(e, [ask(ids(20))])
  engines.score(e, [[*ids(20), *said.ids]], [ids(4)])
  assert e.read == 20 + 4
  engines.score(e, [[*ids(20)[:15], *ids(6, 1)]], [ids(4)])
  assert e.read == 20 + 4 + 6 + 4


def test_programs_are_compiled_once_a_bucket():
  e = game.engine(slots=5, buckets=(2,), width=64)
  before = engines.compiles(e)
  for round_ in range(3):
    spoken = engines.speak(e, [ask(ids(5 + i, round_), n=i) for i in range(1 + 2 * round_)])
    for s in spoken:
      engines.free(e, s.slot)
  assert engines.compiles(e) - before == 2 + 2      # extend and decode, two numbers of rows each; nothing was copied
