"""The log-probability head: memory and time of each implementation."""

from pallas_kernels.linear_logp.bench import measure

from rlx.bench.table import Line

SHAPE = 4096, 49152, 576      # tokens of a batch, vocabulary and width of SmolLM2-135M
MIB = 64., 160.               # temporary memory forward, and with gradient, at this size


def head(*, tokens: int = SHAPE[0], vocab: int = SHAPE[1], width: int = SHAPE[2], dtype: str = 'float32', repeats: int = 5) -> list[Line]:
  """Log-probability and entropy of tokens from hidden states and a tied head, forward and with both gradients.

  'reference' is the naive form, the measure of the others; 'fused' makes the gradient of a loss in the forward pass.

  Args:
    tokens, vocab, width: sizes.
    dtype: of hidden states and head.
    repeats: runs behind each median.
  """
  if min(tokens, vocab, width, repeats) < 1:
    raise ValueError('bench head takes sizes and repeats of at least 1.')
  if dtype not in ('float32', 'bfloat16'):
    raise ValueError(f"--dtype is float32 or bfloat16, not '{dtype}'.")
  found, lines = measure(tokens, width, vocab, dtype, repeats=repeats), []
  naive = next(h for h in found if h.name == 'reference')
  limits = MIB if (tokens, vocab, width) == SHAPE else (None, None)
  for h in found:
    best = h is not naive
    for what, ms, mib, least, most in (('forward', h.forward_ms, h.forward_mib, naive.forward_ms, limits[0]),
                                       ('with gradient', h.gradient_ms, h.gradient_mib, naive.gradient_ms, limits[1])):
      if ms is not None:
        lines += [Line(f'{h.name}, {what}', tokens, ms, 'ms', least if best else None),
                  Line(f'{h.name}, {what}, temporary memory', tokens, mib, 'MiB', most if best else None)]
  return lines
