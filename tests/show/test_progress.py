"""The bar never disturbs a run; the last line reads back."""

import io
import math

import pytest

from rlx.show import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


def steps(bar, now, n, seconds, record=None):
  for _ in range(n):
    now[0] += seconds
    bar.update(record or {'success': .815, 'tokens_per_s/sample': 3140.})


def test_lines_where_nobody_watches():
  out, now = io.StringIO(), [0.]
  with progress.Progress('quick', (('warm', 40), ('rl', 30)), file=out, clock=lambda: now[0]) as bar:
    steps(bar, now, 40, 1., {'tokens_per_s/update': 900.})
    steps(bar, now, 30, 2.)
  lines = out.getvalue().splitlines()
  assert lines[0] == 'quick warm 1/40, 900 tok/s'
  assert lines[1] == 'quick warm 11/40, rl in 0:29, 900 tok/s'
  assert lines[4] == 'quick rl 1/30, success 0.81, 3.1k tok/s'
  assert lines[5] == 'quick rl 6/30, eta 0:48, success 0.81, 3.1k tok/s'
  assert len(lines) == 4 + 6


def test_bar_on_a_terminal():
  out, now = Terminal(), [0.]
  with progress.Progress('quick', (('warm', 2), ('rl', 3)), done=1, file=out, clock=lambda: now[0]) as bar:
    bar.bar.mininterval = 0
    steps(bar, now, 4, 60.)
  last = out.getvalue().rstrip().split('\r')[-1]
  assert last.startswith('quick rl 3/3 |') and '100%' in last and last.endswith('eta 0:00, success 0.81, 3.1k tok/s')


def test_says_above_the_bar(capsys):
  with progress.Progress('quick', (('rl', 3),), file=Terminal()) as bar:
    bar.say('one')
  with progress.Progress('quick', (('rl', 3),), file=io.StringIO()) as bar:
    bar.say('two')
  assert capsys.readouterr().out == 'one\ntwo\n'


@pytest.mark.parametrize('terminal', [False, True])
def test_a_broken_terminal_ends_the_bar_only(terminal, capsys):
  class Broken(io.StringIO):
    broken = False

    def isatty(self):
      return terminal

    def write(self, text):
      if self.broken:
        raise BrokenPipeError
      return super().write(text)

  out = Broken()
  with progress.Progress('quick', (('rl', 3),), file=out) as bar:
    bar.update({})
    assert bar.on
    out.broken, bar.last = True, -math.inf
    for _ in range(5):   # more than planned, too
      if bar.bar:
        bar.bar.mininterval = 0
      bar.update({})
    assert not bar.on
    bar.say('still')
  assert capsys.readouterr().out == 'still\n'


def test_bad_records_and_no_phases_do_not_raise():
  with progress.Progress('quick', (), file=io.StringIO()) as bar:
    bar.update({'success': 'text'})
  with progress.Progress('quick', (('rl', 2),), file=io.StringIO()) as bar:
    for _ in range(4):
      bar.update({'success': None, 'tokens_per_s/sample': math.nan})
    assert bar._phase() == (0, 4, 2)


def test_summary_line():
  line = progress.summary_line('quickstart', dict(warm_start=.3594, held_out=.9, wall_s=131.4, peak_mb=1010, kl=.00123,
                                                  at='rl', none=math.nan, zero=0.))
  assert line == 'quickstart: warm_start=0.36 held_out=0.90 wall_s=131 peak_mb=1010 kl=0.0012 at=rl none=nan zero=0.00'
  name, values = progress.parse_summary(line + '\n')
  assert name == 'quickstart' and list(values)[:2] == ['warm_start', 'held_out'] and math.isnan(values.pop('none'))
  assert values == dict(warm_start=.36, held_out=.9, wall_s=131., peak_mb=1010., kl=.0012, at='rl', zero=0.)


@pytest.mark.parametrize('line', ['', 'quick:', 'quick: a', 'ValueError: key = 3', 'a=3', 'quick: a=1 b', 'two words: a=1'])
def test_other_lines_are_no_summary(line):
  assert progress.parse_summary(line) is None


@pytest.mark.parametrize('name, values', [('two words', {}), ('q', {'a=b': 1}), ('q', {'a': 'x y'}), ('q', {'a': ''})])
def test_what_would_not_read_back(name, values):
  with pytest.raises(ValueError, match='cannot stand in a summary line'):
    progress.summary_line(name, values)


def test_clock_text():
  assert [progress.clock_text(s) for s in (0, 59.6, 75, 3675)] == ['0:00', '1:00', '1:15', '1:01:15']
