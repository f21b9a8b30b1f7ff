"""Which rows are trained: ownership, fresh contexts, what gives no row; and a property on random trees, through packing."""

import functools

import numpy as np
import pytest

from rlx import walk
from rlx.grow import forest, segment
from rlx.learn import rows
from rlx.learn.pack import Bucket, pack
from rlx.types import Row
from tests import trees
from tests.trees import group, step


def test_walk():
  g = group([step(-1, [1], [90]), step(0, [2], [91]), step(1, [3], [92, 93], fresh=True), step(2, [4], [94], end=1), step(0, [5], end=3)])
  assert walk.path(g.nodes, 3) == [0, 1, 2, 3] and walk.path(g.nodes, 0) == [0]
  assert [walk.ids_before(g.nodes, i) for i in range(4)] == [[90], [90, 1, 91], [92, 93], [92, 93, 3, 94]]
  assert [e.steps for e in walk.episodes(g)] == [[0, 1, 2, 3]]
  assert [e.steps for e in walk.episodes(g, (3,))] == [[0, 4]]
  (e,) = walk.episodes(g)
  assert e.nodes == [g.nodes[i] for i in e.steps] and e.task == g.task


def test_the_first_row_owns_what_is_shared():
  """The design's example: 0-1-2, 0-1-3, 0-4-5."""
  g = group([step(-1, [1], [90]), step(0, [2]), step(1, [3], end=1), step(1, [4], end=2), step(0, [5]), step(4, [6], end=1)])
  assert rows.paths(g) == [Row([90], [0, 1, 2], [True, True, True]), Row([90], [0, 1, 3], [False, False, True]),
                           Row([90], [0, 4, 5], [False, True, True])]
  assert rows.steps(g) == [Row([90], [0], [True]), Row([90, 1], [1], [True]), Row([90, 1, 2], [2], [True]),
                           Row([90, 1, 2], [3], [True]), Row([90, 1], [4], [True]), Row([90, 1, 5], [5], [True])]


def test_a_rewritten_context_starts_a_row():
  """1 was shown all of its past, 2 and 3 were shown something else; the second episode shares 0 to 2."""
  g = group([step(-1, [1], [90]), step(0, [2], [91]), step(1, [3], [92], fresh=True), step(2, [4], [93], end=1),
             step(2, [5], [94], fresh=True, end=1)])
  assert rows.paths(g) == [Row([90], [0, 1], [True, True]), Row([92], [2, 3], [True, True]), Row([94], [4], [True])]
  assert rows.steps(g) == [Row([90], [0], [True]), Row([90, 1, 91], [1], [True]), Row([92], [2], [True]),
                           Row([92, 3, 93], [3], [True]), Row([94], [4], [True])]


@pytest.mark.parametrize('make', [rows.paths, rows.steps])
def test_abandoned_and_failed_paths_give_no_row(make):
  """What 1 and 2 share with an ended episode stays."""
  g = group([step(-1, [1], [90]), step(0, [2], end=3), step(0, [3]), step(0, [4], end=2)])
  assert [i for r in make(g) for i in r.nodes] == [0, 3]
  assert make(group([step(-1, [1], end=3), step(-1, [1]), step(1, [2])])) == []
  assert make(group([])) == []


def test_an_episode_may_end_above_another():
  """A path that ran out of room is cut off where it stands, though a shorter branch went on below."""
  g = group([step(-1, [1], [90], end=2), step(0, [2], end=1)])
  assert rows.paths(g) == [Row([90], [0], [True]), Row([90], [0, 1], [False, True])]


@pytest.mark.parametrize('make', [rows.paths, rows.steps])
@pytest.mark.parametrize('seed', range(20))
def test_every_credited_token_is_trained_once_and_read_as_it_was_sampled(seed, make):
  """Several random prompts, cut in several ways, packed: ids are unique, so tokens can be followed."""
  grown = [trees.grow(seed * 3 + i, steps=5 + 4 * i, rewrite=(.3, 0., 1.)[i]) for i in range(3)]
  cut = [forest.cut(g, (None, segment.turns, functools.partial(segment.tokens, k=2))[(seed + i) % 3]) for i, (g, _) in enumerate(grown)]
  packed = pack(cut, rows=make, buckets=(Bucket(6, 128, 64, 3), Bucket(40, 128, 256, 3)), streams=('entropy',), roles=('action',))
  assert len(packed) == 1 and not packed[0].dropped
  b = packed[0].batch
  t, n = b.tokens, b.nodes
  # each credited token once, and under the step that drew it
  got = [(int(t.node[r, i]), int(t.ids[r, i])) for r, i in zip(*np.nonzero(t.mask), strict=True)]
  want = [(first + i, token) for g, first in zip(packed[0].groups, packed[0].first, strict=True)
          for i in trees.lived(g) for token, s in zip(g.nodes[i].ids, g.nodes[i].sampled, strict=True) if s]
  assert sorted(got) == sorted(want)
  of_prompts = [trees.trained(g) for g, _ in grown]
  assert [sorted(token for i, token in got if n.group[i] == k) for k in range(3)] == of_prompts
  # `sampled` may stand in several rows, always with what belongs to the token
  assert not np.any(t.mask & ~t.sampled)
  assert {int(i) for i in t.ids[t.sampled]} == {token for p in of_prompts for token in p}
  np.testing.assert_array_equal(t.logp, np.where(t.sampled, trees.logp(t.ids), 0).astype(np.float32))
  np.testing.assert_allclose(t.stream['entropy'][t.sampled], t.ids[t.sampled] / 7, rtol=1e-6)
  # each sequence is the beginning of what the model had read at some step; the observation's tokens carry the step they precede
  seen = [s for _, all_seen in grown for s in all_seen]
  for r in range(t.ids.shape[0]):
    for s in range(t.segment[r].max() + 1):
      at = np.flatnonzero(t.segment[r] == s)
      ids = t.ids[r, at].tolist()
      assert any(whole[:len(ids)] == ids for whole in seen)
      if make is rows.paths:
        assert ids in seen
      np.testing.assert_array_equal(t.position[r, at], np.arange(len(at)))
      steps = list(dict.fromkeys(t.node[r, at].tolist()))
      above = lambda i: [] if i < 0 else [i, *above(n.parent[i])]
      assert all(a in above(b) for a, b in zip(steps, steps[1:], strict=False) if a >= 0)
