"""SPA's step reward (arXiv:2505.20732): alpha c_t + beta g_t, without what the released scripts do to it."""

import numpy as np
import pytest

from rlx import toy
from rlx.transforms.spa import spa
from tests.estimators import forests


def test_by_hand():
  # c is what the head says on each step's last trained token: .2 .3 | .1; g = 1 0 | 1
  b = toy.batch([-1, 0, -1], n_tokens=[2, 1, 1], n_obs=[0, 1, 0], task=0, format=[1, 0, 1],
                stream={'value/progress': [[9., .2, 9., .3], [.1, 9., 9., 9.]]})
  got = spa(b)
  assert set(got.nodes.reward) == {'task', 'format', 'spa'} and set(b.nodes.reward) == {'task', 'format'}
  np.testing.assert_allclose(got.nodes.reward['spa'], [.7, .3, .6], atol=1e-6)
  other = spa(b, alpha=2., beta=-1., grounding='task', into='steps').nodes.reward
  np.testing.assert_allclose(other['steps'], [.4, .6, .2], atol=1e-6)
  assert got.nodes.reward['format'] is b.nodes.reward['format'] and got.tokens is b.tokens


@pytest.mark.parametrize('grown, seed', [('chains', 0), ('trees', 1)])
def test_twin(grown, seed):
  f = getattr(forests, grown)(seed)
  b = f.batch(toy, n_tokens=[1 + (i * 5 + seed) % 3 for i in range(len(f.parent))], n_obs=1)
  said = np.random.default_rng(seed).normal(size=b.tokens.node.shape)
  got = spa(forests.padded(forests.with_stream(b, **{'value/gain': said})), head='gain', alpha=.75, beta=.25)
  want = [0.] * len(f.parent)
  for sequence in forests.sequences(b):
    for step, at in {step: (r, t) for r, t, step, trained in sequence if trained}.items():
      want[step] = .75 * said[at] + .25 * f.reward['format'][step]
  judged = np.array(f.judged['format'])
  reward, verdict = np.asarray(got.nodes.reward['spa']), np.asarray(got.nodes.judged['spa'])
  np.testing.assert_allclose(reward[:len(want)][judged], np.array(want)[judged], atol=1e-6)
  np.testing.assert_array_equal(verdict[:len(want)], judged)      # where the signal has no verdict the step has none
  assert not reward[len(want):].any()
