"""Curves: what is drawn is what was recorded."""

import math
import sys

import numpy as np
import pytest

from rlx.show import metrics, plots

PNG = b'\x89PNG\r\n\x1a\n'


def run(steps=20, **kw):
  records = []
  for s in range(steps):
    r = {'step': s, 'phase': 'warm' if s < steps // 2 else 'rl', 'wall_s': 30. * s, 'loss/main': 1 / (s + 1.)}
    if s >= steps // 2:
      r |= {'success': s / steps, 'explored': 1., 'seconds/sample': 2., 'seconds/update': 1., 'kl': None}
    if s % 5 == 4:
      r |= {f'eval/held_out/{t}/accuracy{end}': .5 + d + float(t) / 10
            for t in ('0.0', '1.0') for end, d in (('', 0.), ('_low', -.1), ('_high', .1))}
    records.append(r | kw)
  return records


def size(path):
  data = path.read_bytes()
  assert data.startswith(PNG)
  return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')


def titles(picture):
  return [a.get_title(loc='left') for a in picture.axes]


def test_column():
  history = plots.History([{'step': 1, 'phase': 'rl', 'kl': None}, {'step': 2, 'kl': .5}])
  np.testing.assert_array_equal(history.column('kl'), [math.nan, .5])
  assert history.column('phase').tolist() == ['rl', None] and history.names == ['kl', 'phase', 'step']
  with pytest.raises(KeyError, match=r"no metric 'loss'; this run has \['kl', 'phase', 'step'\]"):
    history.column('loss')


def test_default_panels_are_those_with_data(tmp_path):
  picture = plots.curves(run(), path=tmp_path / 'new' / 'curves.png')
  assert titles(picture) == ['accuracy on held-out tasks (95 %)', 'success', 'explored', 'loss', 'seconds by stage']
  width, height = size(tmp_path / 'new' / 'curves.png')
  assert width == round(3 * 4.2 * 110) and height == round((2 * 2.4 + .2) * 110)


def test_panel_draws_the_records():
  picture = plots.History(run()).plot('loss/*', ('success', 'explored'), 'eval/*/1.0/accuracy')
  loss, pair, accuracy = picture.axes
  raw = [line for line in loss.lines if line.get_alpha()]
  np.testing.assert_allclose(np.concatenate([line.get_ydata() for line in raw]), [1 / (s + 1) for s in range(20)])
  np.testing.assert_allclose(np.concatenate([line.get_xdata() for line in raw]), [s / 2 for s in range(20)])   # minutes
  assert [len(line.get_xdata()) for line in raw] == [10, 10]   # never joined over phases
  assert [t.get_text() for t in pair.get_legend().get_texts()] == ['success', 'explored']
  np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [.6] * 4)
  band = accuracy.collections[0].get_paths()[0].vertices
  np.testing.assert_allclose([band[:, 1].min(), band[:, 1].max()], [.5, .7])
  spans = [p for p in accuracy.patches if p.get_facecolor()[:3] != (1, 1, 1)]
  np.testing.assert_allclose([(p.get_x(), p.get_x() + p.get_width()) for p in spans], [(0., 4.5), (4.5, 9.5)])


def test_x_is_the_step_without_wall_time():
  records = [{k: v for k, v in r.items() if k != 'wall_s'} for r in run(8)]
  axes, = plots.curves(records, ['loss/main']).axes
  np.testing.assert_allclose(axes.lines[0].get_xdata(), range(8))
  assert axes.get_xlabel() == 'step'


def test_stacked_seconds_add_up():
  axes, = plots.curves(run(), ['seconds/*']).axes
  assert len(axes.lines) == 2
  stack = plots.curves(run()).axes[-1]
  tops = [c.get_paths()[0].vertices[:, 1].max() for c in stack.collections]
  np.testing.assert_allclose(tops, [2., 3.])
  assert [t.get_text() for t in stack.get_legend().get_texts()] == ['sample', 'update']


@pytest.mark.parametrize('values, scale', [([1e-3, 1., 10.] * 5, 'log'), ([.5, .6, .7] * 5, 'linear'), ([0.] * 15, 'linear')])
def test_gradient_norm_is_logarithmic_where_it_spans_much(values, scale):
  axes, = plots.curves([{'step': i, 'grad_norm': v} for i, v in enumerate(values)]).axes
  assert axes.get_yscale() == scale


def test_success_figure(tmp_path):
  picture = plots.success(run(), tmp_path / 'a.png', title='quickstart')
  axes, = picture.axes
  lines = {line.get_label(): line for line in axes.lines if not line.get_label().startswith('_')}
  assert list(lines) == ['held out', 'success while training', 'explored']
  np.testing.assert_allclose(lines['held out'].get_ydata(), [.6] * 4)          # the sampled one, not greedy
  np.testing.assert_allclose(lines['held out'].get_xdata(), [2., 4.5, 7., 9.5])
  assert [t.get_text() for t in axes.texts] == ['warm', 'rl', '0.60'] and axes.get_title(loc='left') == 'quickstart'
  assert size(tmp_path / 'a.png') == (round(7.6 * 110), 4 * 110)


def test_nothing_to_plot():
  with pytest.raises(ValueError, match='nothing to plot: 1 records have none of the default metrics'):
    plots.curves([{'step': 1, 'phase': 'rl'}])
  with pytest.raises(ValueError, match=r"nothing to plot: 0 records have none of \['x'\]"):
    plots.curves([], ['x'])
  with pytest.raises(ValueError, match='no eval/.*/accuracy or success beside wall_s'):
    plots.success([{'step': 1, 'success': 1.}])


def test_smooth():
  np.testing.assert_allclose(plots.smooth(np.array([0., 3., 6., 0., 0.]), 3), [0., 3., 3., 2., 0.])
  np.testing.assert_allclose(plots.smooth(np.arange(9.), 5), np.arange(9.))
  assert plots.smooth(np.zeros(0)).shape == (0,)


def test_a_notebook_shows_it_and_pyplot_is_not_touched(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib.pyplot', None)   # importing it raises
  assert plots.History(run()).plot('success')._repr_png_().startswith(PNG)


def test_command(tmp_path, capsys):
  with metrics.Writer(tmp_path, events=False) as w:
    for r in run():
      w.write(r['step'], r)
  plots.main([str(tmp_path)])
  assert size(tmp_path / 'curves.png') and size(tmp_path / 'success.png') and 'success.png' in capsys.readouterr().out
  assert plots.History.load(tmp_path).column('success')[-1] == .95
  with pytest.raises(SystemExit, match='usage'):
    plots.main([])


def test_command_without_an_evaluation(tmp_path, capsys):
  with metrics.Writer(tmp_path, events=False) as w:
    w.write(0, {'loss/main': 1.})
  plots.main([str(tmp_path)])
  assert capsys.readouterr().out.split() == [str(tmp_path / 'curves.png')] and not (tmp_path / 'success.png').exists()
