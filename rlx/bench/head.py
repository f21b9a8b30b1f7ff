"""The log-probability head: memory and time of each implementation."""

from pallas_kernels.linear_logp import api
from pallas_kernels.linear_logp.bench import measure

from rlx.bench.table import Line

SHAPE = 4096, 49152, 576      # tokens of a batch, vocabulary and width of SmolLM2-135M


def head(*, tokens: int = SHAPE[0], vocab: int = SHAPE[1], width: int = SHAPE[2], dtype: str = 'float32') -> list[Line]:
  """Log-probability and entropy of `tokens` from hidden states and the head, forward and with both gradients.

  Args:
    tokens, vocab, width: sizes.
    dtype: of hidden states and head.
  """
  lines, plain = [], None
  fixed = (tokens, vocab, width) == SHAPE      # what the limit is stated for
  for name in api.IMPLEMENTATIONS:
    forward, both, memory = measure(name, tokens, width, vocab, dtype)
    plain = plain or (forward, both)           # the reference comes first
    best = name == api.DEFAULT
    lines += [Line(f'{name}, forward', tokens, forward, 'ms', plain[0] if best else None),
              Line(f'{name}, with gradient', tokens, both, 'ms', plain[1] if best else None),
              Line(f'{name}, temporary memory', tokens, memory, 'MiB', 160. if best and fixed else None)]
  return lines
