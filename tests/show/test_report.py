"""The page of a run: complete, small, and safe whatever a model wrote."""

import html.parser
import json
import re

import pytest

from rlx.show import metrics, report


class Page(html.parser.HTMLParser):
  """Checks that tags nest; keeps (tag, attributes) and the text of each <pre>."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.pre, self.text = [], [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in ('meta', 'input'):
      self.open.append(tag)
    if tag == 'pre':
      self.pre.append('')

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data
    if self.open and self.open[-1] == 'pre':
      self.pre[-1] += data

  def classes(self, word):
    return [a for _, a in self.tags if word in a.get('class', '').split()]


def step(obs='see', text='do', **kw):
  return dict(obs=obs, text=text, ids=[1, 2], sampled=[1, 0], fresh=False, by='policy', branch=0, reward={'task': 0.},
              advantage={'main': .5}, logp=-.25, entropy=None, label={'state': 3}, value={'conf': .5}, metrics={}) | kw


def line(at=0, parent=(-1, 0), end=(0, 1), steps=None, prompt='q'):
  steps = steps or [step() for _ in parent]
  return dict(step=at, prompt=prompt, index=0, task=None, known={}, metrics={}, parent=parent, end=end, steps=steps)


def folder(path, lines, records=()):
  for name, rows in (('episodes.jsonl', lines), ('metrics.jsonl', records)):
    (path / name).write_text(''.join(json.dumps(r, separators=(',', ':')) + '\n' for r in rows))
  return path


def test_episodes_of_a_tree():
  # The tree of design section 1 with an abandoned branch (6) and a failed one (7).
  g = line(parent=[-1, 0, 1, 1, 0, 4, 0, 0], end=[0, 0, 1, 2, 0, 1, 0, 3], steps=[
      step(reward={'task': r, 'format': .5}) for r in (0., 0., 1., .5, .25, .5, 0., 9.)])
  found = report.episodes(g)
  assert [e['steps'] for e in found] == [[0, 1, 2], [0, 1, 3], [0, 4, 5], [0, 6], [0, 7]]
  assert [e['verdict'] for e in found] == ['right', 'wrong', 'right', 'left', 'wrong']
  assert [e['tokens'] for e in found] == [6, 6, 6, 4, 4] and found[0]['returns'] == {'task': 1., 'format': 1.5}
  g['steps'][5]['metrics'] = {'correct': 1.}
  g['steps'][2]['metrics'] = {'correct': 0.}
  assert [e['verdict'] for e in report.episodes(g)] == ['wrong', 'wrong', 'right', 'left', 'wrong']
  bare = line(steps=[step(reward={}), step(reward={'judge': None})])
  assert report.episodes(bare)[0]['verdict'] == 'wrong'


@pytest.mark.parametrize('n', [0, 1, 2, 3, 10, 17])
def test_spread(n):
  order = report.spread(n)
  assert sorted(order) == list(range(n))
  if n > 3:
    assert order[:2] == [n - 1, 0] and order[2] in (n // 2, (n - 1) // 2)


def test_page_shows_each_step(tmp_path):
  g = line(7, [-1, 0, 0, 0], [0, 1, 2, 3], [
      step('How many?', 'look', label={'state': 'abc'}), step('seen', 'right answer', reward={'task': 1.}, advantage={'main': 1.}),
      step('seen', 'cut', advantage={'main': -1., 'late': None}, by='user'), step('seen', 'died')])
  text = report.write(folder(tmp_path, [g])).read_text()
  page = Page(text)
  assert page.pre == ['How many?', 'look', 'seen', 'right answer', 'How many?', 'look', 'seen', 'cut',
                      'How many?', 'look', 'seen', 'died']
  assert [a['class'] for a in page.classes('episode')] == ['episode right', 'episode wrong marked', 'episode wrong marked']
  flat = re.sub(r'\s+', ' ', page.text)
  assert 'cut off' in flat and 'failed' in flat and 'step 7 1/3' in flat and '1 of 1 kept prompts' in flat
  assert 'state abc' in flat and 'shared by 3' in flat and 'by user' in flat and '1 not sampled' in flat
  chips = [a.get('style', '') for a in page.classes('chip')]
  assert any('--plus' in s and '45%' in s for s in chips) and any('--minus' in s and '45%' in s for s in chips)
  assert 'advantage main \N{MINUS SIGN}1' in flat and 'advantage late -' in flat and 'logp \N{MINUS SIGN}0.25, entropy -' in flat


def test_a_forked_prompt_is_drawn(tmp_path):
  """Shared steps stand once; a prompt of chains has no drawing, and one that is too large has none either."""
  adv = [.5, -2., 2., 0., None, .5]
  g = line(0, [-1, 0, 1, 1, 0, 4], [0, 0, 1, 3, 0, 0], [step(reward={'task': float(i == 2)}, advantage={'main': a}) for i, a in enumerate(adv)])
  page = Page(report.page(folder(tmp_path, [g])))
  svg, = (a for t, a in page.tags if t == 'svg')
  boxes = [a for t, a in page.tags if t == 'rect' and a.get('rx') == '3' and a['width'] != '6']
  assert svg['aria-label'] == 'the tree of steps' and 'xmlns' not in svg
  assert [a['fill'] for a in boxes] == ['#d5ecfa', '#e69f00', '#56b4e9', '#ffffff', '#ffffff', '#d5ecfa']
  drawn = page.text.split('q', 1)[1].split('right')[0]
  assert [t for t in drawn.split() if t[0] not in '+\N{MINUS SIGN}'][:9] == ['0', '1', '2', '\u2713', '3', '\u2717', '4', '5', '\u2013']
  assert Page(report.page(folder(tmp_path, [line(parent=[-1, 0, -1, 2], end=[0, 1, 0, 1])]))).classes('tree') == []
  many = line(parent=[-1] + [0] * 300, end=[0] + [1] * 300)
  assert Page(report.page(folder(tmp_path, [many]))).classes('tree') == []
  forked = [line(i, [-1, 0, 0], [0, 1, 1]) for i in range(60)]
  assert len(report.page(folder(tmp_path, forked), limit=60_000).encode()) <= 60_000


def test_hostile_text_stays_text(tmp_path):
  evil = '</pre></style><script>alert(1)</script><img src=x onerror=alert(2)>"\'{{ 7 * 7 }}{% raw %}&lt;\x00\ud800\u202e'
  g = line(0, [-1], [1], [step(evil, evil, reward={evil: 1.}, advantage={evil: 1.}, label={evil: evil}, value={evil: 0.}, by=evil)],
           prompt=evil) | dict(task={evil: evil})
  text = report.write(folder(tmp_path, [g], [{'step': 0, 'phase': evil, 'loss/' + evil: 1., 'reward/' + evil: 2.}])).read_text()
  page = Page(text)
  assert {t for t, _ in page.tags} <= {'html', 'head', 'meta', 'title', 'style', 'body', 'header', 'h1', 'h2', 'p', 'div', 'b', 'small',
                                       'svg', 'polyline', 'span', 'label', 'input', 'nav', 'a', 'main', 'section', 'details', 'summary', 'pre'}
  allowed = {'lang', 'charset', 'name', 'content', 'http-equiv', 'class', 'style', 'id', 'type', 'checked', 'href', 'viewbox',
             'preserveaspectratio', 'role', 'aria-label', 'points', 'stroke', 'dir'}
  assert {a for _, attrs in page.tags for a in attrs} <= allowed
  assert 'alert(1)' in page.pre[0] and '{{ 7 * 7 }}' in page.pre[1] and '49' not in page.text


def test_page_loads_nothing(tmp_path):
  text = report.page(folder(tmp_path, [line()], [{'step': s, 'success': s / 9} for s in range(9)]))
  page = Page(text)
  assert not re.search(r'https?:|url\(|@import|src=', text)
  assert all(a['href'].startswith('#s') for t, a in page.tags if t == 'a')
  policy, = (a['content'] for t, a in page.tags if a.get('http-equiv') == 'Content-Security-Policy')
  assert policy == "default-src 'none'; style-src 'unsafe-inline'"
  assert 'prefers-color-scheme: dark' in text


def test_limit_keeps_an_even_choice_of_steps(tmp_path):
  lines = [line(at, [-1], [1], [step('o' * 3000, f'answer {at} {k}')]) for at in range(100) for k in range(2)]
  text = report.page(folder(tmp_path, lines), limit=150_000)
  assert 100_000 < len(text.encode()) <= 150_000
  kept = [int(s) for s in re.findall(r'<h2 id="s(\d+)">', text)]
  assert kept == sorted(kept) and kept[0] == 0 and kept[-1] == 99 and 10 < len(kept) < 30
  assert max(b - a for a, b in zip(kept, kept[1:])) <= 13
  assert re.search(rf'{len(kept)} of 200 kept prompts; the others are in episodes.jsonl', text)


def test_a_huge_prompt_is_shortened(tmp_path):
  lines = [line(0, [-1] * 40, [1] * 40, [step('o' * 50_000, 'a' * 50_000) for _ in range(40)])]
  text = report.page(folder(tmp_path, lines), limit=200_000)
  assert len(text) <= 200_000 and text.count('<pre') == 80 and '49,800 characters more' in text


def test_curves(tmp_path):
  records = [{'step': s, 'phase': 'rl', 'wall_s': 2. * s, 'success': s / 10, 'eval/a/1/accuracy': .5, 'eval/a/1/accuracy_low': .4,
              'kl': None} for s in range(11)]
  page = Page(report.page(folder(tmp_path, [], records)))
  lines = [a['points'] for t, a in page.tags if t == 'polyline']
  first, last = lines[1].split()[0], lines[1].split()[-1]
  assert len(lines) == 2 and first.startswith('2.0,') and last.startswith('198.0,')
  assert float(first.split(',')[1]) > float(last.split(',')[1])   # it rises
  assert 'a/1 0.5' in page.text and '0 to 1' in page.text and '0 of 0 kept prompts' in page.text


def test_half_written_line_and_missing_files(tmp_path):
  folder(tmp_path, [line()])
  with open(tmp_path / 'episodes.jsonl', 'a') as f:
    f.write('{"step":1,"prompt":"q')
  assert '1 of 1 kept prompts' in report.page(tmp_path)
  (tmp_path / 'metrics.jsonl').unlink()
  assert '1 of 1 kept prompts' in report.page(tmp_path)
  with pytest.raises(SystemExit, match="no metrics.jsonl or episodes.jsonl in '.*nowhere'"):
    report.main([str(tmp_path / 'nowhere')])


def test_reads_what_a_run_writes(tmp_path):
  import numpy as np
  from rlx.types import Group, Node, Task
  node = Node(parent=-1, obs='ask', context=[1], fresh=True, text='say', ids=[3], sampled=np.ones(1, bool), end=1,
              logp=np.zeros(1, np.float32), stream={}, reward={'task': 1.}, label={'state': ('a', 2)})
  with metrics.Episodes(tmp_path) as e:
    e.write(12, [Group(Task('t', {'gold': 'x'}), [node])], {'main': [[2.]]})
  report.main([str(tmp_path)])
  page = Page((tmp_path / 'report.html').read_text())
  assert page.pre == ['ask', 'say'] and len(page.classes('right')) == 3   # the episode, its verdict, its step in the index
