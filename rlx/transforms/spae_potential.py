"""SPAE's potential of a step, from what its probe found."""

import dataclasses

from rlx.types import Batch

writes = ('value/potential',)


def spae_potential(batch: Batch, *, conf: str = 'conf', acc: str = 'acc', into: str = 'potential') -> Batch:
  """Adds `value[into]`, the potential of each step (arXiv:2601.03823).

    Phi = 1.5 acc conf + 0.5 acc - conf

  It is 1 where the model is sure and right, -1 where it is sure and wrong, 0 where it is neither, 0.5 where it is right and not sure.

  Args:
    batch: reads `value[conf]` and `value[acc]`, between 0 and 1 (probe `spae`).
    conf, acc: their names.
    into: name of the potential.

  Source: cii030/SPAE-RL@ed529f8a `inference/probe_mechanism_example.py`.

  Proof: twin.
  """
  value = batch.nodes.value
  phi = 1.5 * value[acc] * value[conf] + .5 * value[acc] - value[conf]
  return dataclasses.replace(batch, nodes=dataclasses.replace(batch.nodes, value={**value, into: phi}))
