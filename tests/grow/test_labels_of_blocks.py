"""Labels read from tags in the text of a step."""

import numpy as np

from rlx.grow import labels
from rlx.types import Node


def steps(*texts, **metrics):
  none = np.zeros(0, np.float32)
  return [Node(-1, '', [], False, text, [], none.astype(bool), none, {}, metrics=metrics) for text in texts]


def test_tagged():
  texts = '<explore>a</explore>', '<reflection>b</reflection><planning>c</planning>', 'explore', '<monitor>', ''
  assert labels.tagged(steps(*texts)) == ['explore', 'planning', 'none', 'monitor', 'none']
  assert labels.tagged(steps(*texts), tags=('reflection',)) == ['none', 'reflection', 'none', 'none', 'none']
  assert labels.tagged(steps('<explore>', valid=0.)) == ['none'] and labels.tagged(steps('<explore>', valid=1.)) == ['explore']
  assert labels.tagged(steps('<explore>', ok=0.), valid='ok') == ['none']


def test_switched():
  texts = ('<switch>SWITCH</switch>', 'x <switch> keep\n</switch>', '<switch>KEEP</switch><switch>SWITCH</switch>',
           '<switch></switch>', 'SWITCH')
  assert labels.switched(steps(*texts)) == [True, False, False, False, False]
  np.testing.assert_array_equal(labels.intern([labels.switched(steps(*texts))]), [1, 0, 0, 0, 0])
  assert labels.switched(steps('<s>old</s>', '<s>KEEP</s>'), tag='s', keep='old') == [False, True]


def test_block():
  texts = ('<plan>find a cup</plan>', '<plan>\nfind a cup </plan><plan>x</plan>', '<plan>find a Cup</plan>', '<plan> </plan>',
           '<plan>x')
  got = labels.block(steps(*texts))
  assert got[0] == got[1] > 0 and got[2] not in (0, got[0]) and got[3:] == [0, 0]
  np.testing.assert_array_equal(labels.intern([got]), got)      # they fit, so 0 stays 0
  assert labels.block(steps('<goal>x</goal>', '<plan>x</plan>'), tag='goal')[1] == 0
