"""Pictures of forests: what stands in them, where, and that no name or text can do harm."""

import re
from xml.etree import ElementTree

import jax.numpy as jnp
import numpy as np
import pytest

from rlx import testing, toy
from rlx.show import drawing
from rlx.types import Advantages

TREE = dict(parent=[-1, 0, 1, 1, 0, 4, 0], end=[0, 0, 1, 3, 0, 2, 0], task=[0, 0, 1, 0, 0, .5, 0])
EVIL = '</text><script>alert(1)</script>"\'&$x^$ $\\frac$\x00\x1b\ud800\u202e\n\u4f60' + 'W' * 500


def parse(svg):
  """Tag -> attributes of each, and the texts with their corners."""
  root = ElementTree.fromstring(str(svg).encode())      # raises unless it is XML
  found = {}
  for e in root.iter():
    found.setdefault(e.tag.split('}')[-1], []).append(dict(e.attrib, said=e.text))
  return found


def boxes(found):
  """The boxes of steps, in order: (left, top, right, bottom, fill, dash)."""
  steps = [a for a in found['rect'] if a.get('rx') == '3' and a['width'] != '6']
  numbers = [[float(a[k]) for k in ('x', 'y', 'width', 'height')] for a in steps]
  return [(x, y, x + w, y + h, a['fill'], a.get('stroke-dasharray')) for (x, y, w, h), a in zip(numbers, steps)]


def said(found):
  return [a['said'] for a in found['text']]


def test_each_step_is_drawn_once_with_what_is_known_of_it():
  b = toy.batch(**TREE, label=dict(state=list('abcdefg')), value=dict(conf=.25))
  adv = jnp.array([0., -1., .5, 0., 1., 1., 0.])
  found = parse(toy.draw(b, adv))
  assert [x[4] for x in boxes(found)] == ['#ffffff', '#e69f00', '#aadaf4', '#ffffff', '#56b4e9', '#56b4e9', '#ffffff']
  assert [x[5] for x in boxes(found)] == [None, None, None, '1 2', None, '4 2', None]
  texts = said(found)
  assert texts[:3] == ['adv', '\u22121', '+1']
  for head in ('0', '1', '2 \u25cf done', '3 \u2717 failed', '4', '5 \u25d0 cut', '6 \u25cb abandoned'):
    assert [a['said'] for a in found['text'] if 'text-anchor' not in a].count(head) == 1
  assert texts.count('conf 0.25') == 7 and texts.count('state 5') == 1 and '+0.5' in texts and '\u22121' in texts
  assert [t for t in texts if t.startswith('task')] == ['task 1', 'task 0', 'task 0.5']     # where it is paid, and where something ends
  pale = [a['said'] for a in found['text'] if a['fill'] == drawing.PALE and a['said'][0].isdigit()]
  assert pale[0][0] == '3' and set(p[0] for p in pale) == {'3', '6', '0'}                   # '0' is their number


@pytest.mark.parametrize('down', [False, True])
def test_boxes_lie_beside_each_other_and_follow_their_parents(down):
  b = testing.batch()
  found = parse(toy.draw(b, down=down))
  rects, parent = boxes(found), np.asarray(b.nodes.parent)
  wide, high = (float(found['svg'][0][k]) for k in ('width', 'height'))
  assert len(rects) == int(b.nodes.valid.sum())
  for i, (x0, y0, x1, y1, *_) in enumerate(rects):
    assert 0 <= x0 < x1 <= wide and 0 <= y0 < y1 <= high
    assert not [r for r in rects[:i] if r[0] < x1 and x0 < r[2] and r[1] < y1 and y0 < r[3]], 'two boxes overlap'
    if parent[i] >= 0:
      assert (y0 > rects[parent[i]][3]) if down else (x0 > rects[parent[i]][2])
  links = found['path'][0]['d'].count('M')
  assert links == len(rects)                             # each step hangs on one other, or on the dot of its prompt
  assert [t for t in said(found) if t.startswith('prompt')] == [f'prompt {g}' for g in range(5)]


def test_columns_as_bars_and_as_panels():
  b = toy.batch(**TREE)
  x, tokens = jnp.array([0., 0., 2., 0., -1., 0., 0.]), jnp.where(b.tokens.mask, 3., 0.)
  found = parse(toy.draw(b, x, Advantages(adv=x), tokens, names=('one', 'two', 'three'), also=()))
  assert len(boxes(found)) == 7 and said(found).count('two') == said(found).count('three') == 7 and said(found).count('one') == 1
  widths = [float(a['width']) for a in found['rect'] if a['height'] == '9' and a['y'] != '7']
  assert widths == [16., 16.] + [16., 16.] + [16.] + [8., 16.] + [16., 16.]      # of three: all; of two: a full one at 2, half of it at -1
  panels = parse(toy.draw(b, x, Advantages(adv=x), tokens, names=('one', 'two', 'three'), also=(), panels=2))
  rects = boxes(panels)
  assert len(rects) == 21 and said(panels).count('two') == 1
  assert rects[7][0] > max(r[2] for r in rects[:7]) and rects[7][1] == rects[0][1]      # beside the first
  assert rects[14][1] > max(r[3] for r in rects[:14]) and rects[14][0] == rects[0][0]   # below it
  assert toy.draw(b, x, scale=4.).count('#aadaf4') > 0 and '\u22124' in said(parse(toy.draw(b, x, scale=4.)))


def test_hostile_names_and_texts(tmp_path):
  b = toy.batch(**TREE, label={EVIL: 1}, value={EVIL: 2.}, **{EVIL: 1.})
  svg = toy.draw(b, b.nodes.reward['task'], b.nodes.reward[EVIL], names=(EVIL, EVIL + '2'), text=[EVIL] * 7)
  found = parse(svg)
  assert set(found) == {'svg', 'rect', 'path', 'text'} and '<script' not in svg and '\x00' not in svg and '\u202e' not in svg
  assert {k for tag in found.values() for a in tag for k in a} <= {
      'viewBox', 'width', 'height', 'role', 'aria-label', 'font-family', 'font-size', 'fill', 'x', 'y', 'rx', 'stroke', 'stroke-dasharray', 'd',
      'text-anchor', 'font-weight', 'said'}
  assert any(t.startswith('</text><script>al') and t.endswith('\u2026') for t in said(found))
  assert len(svg) < 40_000 and max(r[2] - r[0] for r in boxes(found)) <= 180
  toy.draw(b, b.nodes.reward['task'], names=(EVIL,), text=[EVIL] * 7, file=tmp_path / 'x.png')      # $ begins no formula
  assert (tmp_path / 'x.png').read_bytes().startswith(b'\x89PNG')


def test_files(tmp_path):
  b = toy.batch(**TREE)
  svg = toy.draw(b, b.nodes.reward['task'], file=str(tmp_path / 'a.svg'))
  assert (tmp_path / 'a.svg').read_text(encoding='utf-8') == svg == svg._repr_svg_()
  assert repr(svg) == f'<Drawing, {len(svg):,} characters of SVG>' and isinstance(svg, str)
  with pytest.raises(ValueError, match="written as .svg or .png, not as 'a.pdf'"):
    toy.draw(b, file='a.pdf')


def test_mistakes_are_named():
  b = toy.batch(**TREE)
  with pytest.raises(ValueError, match='2 columns but 1 names'):
    toy.draw(b, b.nodes.reward['task'], b.nodes.reward['task'])
  with pytest.raises(ValueError, match="no reward, label or value 'state'; this batch has \\['task'\\]"):
    toy.draw(b, also=('state',))
  with pytest.raises(ValueError, match='scale is a number above 0, not 0'):
    toy.draw(b, scale=0)
  with pytest.raises(ValueError, match='2 texts for 7 steps'):
    toy.draw(b, text=['a', 'b'])


def test_what_is_left_out_is_said():
  b = toy.batch([-1] * 30, task=1)
  found = parse(toy.draw(b, most=10))
  assert len(boxes(found)) == 10 and said(found)[-1] == 'and 20 more steps'
  nothing = parse(toy.draw(testing.pad(toy.batch([-1], end=3, task=0), 4, 2, 2), most=0))
  assert 'and 1 more steps' in said(nothing)


def test_missing_verdicts_and_numbers_that_are_none():
  b = toy.batch([-1, -1, -1], task=[0, 1, 0], judged=dict(task=[1, 0, 1]))
  texts = said(parse(toy.draw(b, jnp.array([np.nan, np.inf, -np.inf]))))
  assert texts.count('task ?') == 1 and texts.count('task 0') == 2 and {'nan', '+inf', '\u2212inf'} <= set(texts)


@pytest.mark.parametrize('x, full, want', [(0., 1., '#ffffff'), (1., 1., '#56b4e9'), (-1., 1., '#e69f00'), (9., 1., '#56b4e9'),
                                           (-.5, 1., '#f2cf80'), (np.nan, 1., '#dddddd'), (-np.inf, 2., '#e69f00')])
def test_colors(x, full, want):
  assert drawing.color(x, full) == want


def test_text_stays_readable_on_every_color():
  """Contrast of at least 4.5 (WCAG AA) of what stands in a box that gets credit."""
  def light(color):
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(k * (c / 12.92 if c <= .03928 else ((c + .055) / 1.055) ** 2.4) for k, c in zip((.2126, .7152, .0722), parts))
  for x in np.linspace(-1, 1, 21):
    for ink in (drawing.INK, drawing.DIM):
      assert (light(drawing.color(x, 1.)) + .05) / (light(ink) + .05) >= 4.5, (x, ink)


def test_numbers():
  assert [drawing.plain(x) for x in (0., -0., 1e-9, -.12345, 1234.)] == ['0', '0', '0', '\u22120.123', '1.23e+03']
  assert [drawing.signed(x) for x in (0., 1e-9, .5, -.5)] == ['0', '0', '+0.5', '\u22120.5']
  assert not re.search('[\ud800-\udfff\x00-\x1f]', drawing.clean(EVIL))
