"""Programs for devices that are not here: what is refused, and, where the compilers are installed, what they make of a small model."""

import importlib.util

import pytest

from rlx import aot

SMALL = dict(vocab=1000, layers=5, dim=64, heads=4, kv_heads=2, ff=128, qkv_bias=True)


@pytest.fixture
def small(monkeypatch):
  monkeypatch.setitem(aot.MODELS, 'small', SMALL)


@pytest.mark.parametrize('argv, message', [
    (('--device', 'abacus'), "device 'abacus' is not known; give one of h200, tpu7x, v4"),
    (('--device', 'v5e:2x2'), r"the compiler for v5e is not installed: pip install -e '\.\[aot-tpu\]'\."),
    (('--device', 'h200'), r"the compiler for h200 is not installed: pip install -e '\.\[aot-gpu\]'\.")])
def test_what_cannot_be_done_is_one_sentence(argv, message, capsys, monkeypatch):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  assert aot.main(argv) == 2
  lines = capsys.readouterr().err.splitlines()
  assert len(lines) == 1
  with pytest.raises(ValueError, match=message):
    aot.devices(argv[1])


def test_report_says_whether_it_fits():
  one = aot.Compiled(4, 10 * aot.GIB, 6 * aot.GIB, 0, 3 * aot.GIB, 2., {'all-gather': 7}, '')
  assert '9.00 GiB of 10.00 GiB, 90%: fits' in aot.report('x', one) and '7 all-gather' in aot.report('x', one)
  assert '12.00 GiB of 10.00 GiB, 120%: does not fit' in aot.report('x', one._replace(temporary=6 * aot.GIB, collectives={}))


def test_collectives_are_counted_once_each():
  text = """
  %all-gather.1 = bf16[8,4]{1,0} all-gather(%p), dimensions={0}
  ROOT %r = (f32[4]{0}, f32[4]{0}, u32[], u32[]) collective-permute-start(%x), metadata={op_name="all-reduce("}
  %d = f32[4]{0} collective-permute-done(%r)
  %f = f32[4]{0} fusion(%all-gather.1), calls=%g, metadata={op_name="x all-reduce("}
"""
  assert aot.collectives(text) == {'all-gather': 1, 'collective-permute': 1}


def test_an_h200(small):
  """One device: no collective, and the state takes the place of the one before."""
  pytest.importorskip('jax_cuda13_plugin')
  made = aot.training_step('h200', 'small', rows=8, width=256, steps=16)
  assert made.devices == 1 and not made.collectives and made.seconds > 0
  assert 12 * 200_000 < made.arguments < 12 * 400_000          # parameters and two moments, in float32
  assert made.outputs < 2**20                                  # the rest takes the arguments' places


@pytest.mark.slow
def test_four_tpus(small):
  """Parameters and moments are split; what cannot be split or built is refused."""
  pytest.importorskip('libtpu')
  one = aot.training_step('v5e:2x2', 'small', rows=8, width=256, steps=16)
  assert one.devices == 4 and {'all-gather'} <= set(one.collectives)
  assert 12 * 50_000 < one.arguments < 12 * 100_000 * 1.5
  with pytest.raises(ValueError, match="topology 'v5e:1x1' is refused"):
    aot.devices('v5e:1x1')
  with pytest.raises(ValueError, match='6 rows do not divide over'):
    aot.training_step('v5e:2x2', 'small', rows=6, width=256)
