"""The probe matrix: a small one is run and resumed, its page by hand, and what cannot be run says why."""

import json

import numpy as np
import pytest

from rlx.show import probe_matrix, table

SMALL = dict(tasks=('delayed_reward', 'noisy_long'), against='GRPO', seeds=2, updates=2, groups=2, width=2, learning_rate=.1, claims='A small one.',
             rows=(dict(name='GRPO', estimator=('grpo',)),
                   dict(name='one | two', estimator=(dict(name='grpo', std=False),), needs='answer', claims=('delayed_reward',)),
                   dict(name='judge', missing='no judge inside jit'),
                   dict(name='wrong', estimator=(dict(name='grpo', channel='nothing'),))))


def test_a_small_matrix(tmp_path, capsys):
  path = tmp_path / 'small.py'
  path.write_text(f'def get_config():\n  return {SMALL!r}\n')
  table.main(['--config', str(path), '--workdir', str(tmp_path / 'out')])
  said = capsys.readouterr().out
  assert '[3/4] judge: no judge inside jit' in said and "KeyError: \"no reward channel 'nothing'" in said
  assert '1 methods have all 2 tasks' in said and '- one | two: the other tasks have no answer to probe' in said
  kept = sorted((tmp_path / 'out').glob('*.json'))
  assert len(kept) == 2, 'what failed is tried again'
  areas = json.loads(kept[0].read_text())['areas']
  assert set(areas) == {'delayed_reward', 'noisy_long'} and all(len(v) == 2 and 0 <= np.mean(v) <= 1.2 for v in areas.values())
  table.main(['--config', str(path), '--workdir', str(tmp_path / 'out')])
  assert '(done before)' in capsys.readouterr().out
  assert (tmp_path / 'out' / 'table.md').read_text().startswith('A small one.\n')


def test_the_page_by_hand():
  """Two seeds: t = 12.706, so the mean of .5 and .7 is .6 +- 1.271; a difference of .2 and .2 has no spread."""
  found = {'GRPO': dict(areas=dict(delayed_reward=[.5, .7], noisy_long=[.1, .1]), compile_s=3., run_s=1.),
           'one | two': dict(areas=dict(delayed_reward=[.7, .9]), compile_s=2., run_s=.4), 'judge': dict(missing='no judge')}
  page = probe_matrix.markdown(SMALL, found)
  assert '| GRPO | 0.600 ± 1.271 | 0.100 ± 0.000 | 3 | 1 |' in page
  assert '| one \\| two | 0.800 ± 1.271 * | n/a | 2 | 0 |' in page and '| judge | n/a | n/a | - | - |' in page
  assert '| one | two | delayed_reward | +0.200 | +0.200 to +0.200 | won |' in page
  assert '- judge: no judge' in page and 'wrong' not in page


@pytest.mark.parametrize('change, message', [
    (dict(epochs=3), "unknown key 'epochs'"), (dict(tasks=('maze',)), "names the task 'maze'"), (dict(against='PPO'), "one of them 'PPO'"),
    (dict(rows=(dict(name='GRPO'),)), 'needs a name and one of estimator, tracks and missing'),
    (dict(rows=(dict(name='GRPO', estimator='grpo', colour=1),)), "unknown key 'colour'"),
    (dict(rows=(dict(name='GRPO', estimator='grpo', claims=('fork',)),)), "claims the task 'fork'"),
    (dict(rows=(dict(name='GRPO', estimator='grpo'),) * 2), 'different names')])
def test_errors(change, message):
  with pytest.raises(ValueError, match=message):
    probe_matrix.checked(SMALL | change, 'x.py')
