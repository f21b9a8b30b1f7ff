"""Similar texts: greedy first fit against the first member of each cluster (arXiv:2505.10978, option of the release)."""

import difflib
import functools
import random

import numpy as np
import pytest

from rlx.grow import forest, labels, segment
from rlx.types import Node
from tests import trees


def steps(*texts, of='obs'):
  none = np.zeros(0, np.float32)
  return [Node(-1, t if of == 'obs' else '', [], False, t if of == 'text' else 'same', [], none.astype(bool), none, {}) for t in texts]


def clusters(values):
  """Equal values as equal numbers, in the order of first sight."""
  seen = {}
  return [seen.setdefault(v, len(seen)) for v in values]


def twin(texts, threshold):
  heads, out = [], []
  for t in texts:
    for k, head in enumerate(heads):
      if difflib.SequenceMatcher(None, t, head).ratio() >= threshold:
        break
    else:
      k = len(heads)
      heads.append(t)
    out.append(k)
  return out


@pytest.mark.parametrize('texts, threshold, expected', [
    # ratio = 2 * matched / (both lengths): abcd against abxd .75, abxd against ayxd .75, abcd against ayxd .5
    (['abcd', 'abxd'], .75, [0, 0]),                               # the threshold itself is enough
    (['abcd', 'abxd'], .76, [0, 1]),
    (['abcd', 'abxd', 'ayxd'], .75, [0, 0, 1]),                    # the first member counts, not the last
    (['abxd', 'abcd', 'ayxd'], .75, [0, 0, 0]),                    # so the order does
    (['abcdef', 'uvwxyz', 'abwxyz'], .3, [0, 1, 0]),               # .33 and .67: the first that fits, not the best
    (['abcd', 'wxyz', 'abcd', 'wxyz'], 1., [0, 1, 0, 1]),
    (['abcd', 'Abcd'], .8, [0, 1]),                                # case counts
    (['', 'a', ''], .5, [0, 1, 0]),
    ([], .5, []),
    # 19 of 20 letters: .95, the default; 18 of 20: .9, the search script
    (['a' * 10 + 'b' * 10, 'a' * 10 + 'b' * 9 + 'c', 'a' * 10 + 'b' * 8 + 'dd'], .95, [0, 0, 1]),
    (['a' * 10 + 'b' * 10, 'a' * 10 + 'b' * 9 + 'c', 'a' * 10 + 'b' * 8 + 'dd'], .9, [0, 0, 0]),
])
@pytest.mark.parametrize('of', ['obs', 'text'])
def test_by_hand(texts, threshold, expected, of):
  got = labels.similar(steps(*texts, of=of), of=of, threshold=threshold)
  assert len(got) == len(texts) and clusters(got) == expected
  np.testing.assert_array_equal(clusters(labels.intern([got]).tolist()), expected)
  if threshold == .95:
    assert clusters(labels.similar(steps(*texts, of=of), of=of)) == expected


@pytest.mark.parametrize('seed', range(4))
def test_twin(seed):
  rng, threshold = random.Random(seed), (.5, .6, .75, .8)[seed]
  ratio = lambda a, b: difflib.SequenceMatcher(None, a, b).ratio()
  texts = []
  while len(texts) < 60:   # which text is matched against which is not said: those where it matters are left out
    t = ''.join(rng.choice('ab ') for _ in range(rng.randint(2, 9)))
    if all((ratio(t, o) >= threshold) == (ratio(o, t) >= threshold) for o in texts):
      texts.append(t)
  assert clusters(labels.similar(steps(*texts), threshold=threshold)) == twin(texts, threshold)
  assert 1 < max(twin(texts, threshold)) < len(set(texts)) - 1


def test_equal_texts_are_compared_once(monkeypatch):
  asked, ratio = [], difflib.SequenceMatcher.ratio
  monkeypatch.setattr(difflib.SequenceMatcher, 'ratio', lambda self: asked.append(1) or ratio(self))
  assert clusters(labels.similar(steps(*['abcd', 'wxyz', 'abxd', '1234'] * 50), threshold=.75)) == [0, 1, 0, 2] * 50
  assert 1 <= len(asked) <= 6   # pairs of four texts


def test_a_piece_is_told_by_what_was_said_before_it():
  """As for the other labels: a piece has no observation, so what was said before it, to the letter, tells it."""
  first = lambda *ids: trees.step(-1, ids, (9,), obs='Where?', end=1)
  whole = trees.group([first(1, 2, 3), first(1, 2, 4), first(5, 2, 3)])
  nodes = forest.cut(whole, functools.partial(segment.tokens, k=2)).nodes
  assert clusters(labels.similar(nodes)) == [0, 1, 0, 1, 0, 2]
