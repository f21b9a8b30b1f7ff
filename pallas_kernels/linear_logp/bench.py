"""Times the head: `python -m pallas_kernels.linear_logp.bench [tokens width vocab dtype]`.

'reference' and 'xla' are `linear_logp`'s; 'fused' is `linear_policy_loss`, whose gradient is made in the forward pass.
"""

from collections.abc import Sequence
import statistics
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import linear_logp
from pallas_kernels.linear_policy_loss import linear_policy_loss

SHAPES = ((24 * 64, 96, 448, 'float32'), (2048, 256, 4096, 'float32'))
NAMES = 'reference', 'xla', 'fused'


class Head(NamedTuple):
  """What one implementation takes; 'fused' has no forward pass of its own."""
  name: str
  forward_ms: float | None
  gradient_ms: float               # forward and backward
  forward_mib: float | None        # temporary memory, beside arguments and results
  gradient_mib: float


def measure(tokens: int, width: int, vocab: int, dtype: str = 'float32', *, tied: bool = True, repeats: int = 15,
            names: Sequence[str] = NAMES) -> list[Head]:
  """Medians over `repeats` runs, all implementations in turn within each, so that a busy machine slows all alike.

  Args:
    tokens, width, vocab, dtype: of hidden states `[tokens, width]` and the head.
    tied: the head is a `[vocab, width]` table's transpose.
    repeats: runs behind each median, after one that is not counted.
    names: of `NAMES`.
  """
  a, b, c = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(a, (tokens, width), dtype)
  weight = jax.random.normal(b, (vocab, width) if tied else (width, vocab), dtype) * jnp.asarray(width**-.5, dtype)
  ids = jax.random.randint(c, (tokens,), 0, vocab)
  across = lambda w: w.T if tied else w

  def programs(name):
    if name == 'fused':
      term = lambda logp, entropy, extra, args: logp + entropy
      return None, lambda h, w: linear_policy_loss(h, across(w), ids, term, tied=tied)[0]
    op = lambda h, w: linear_logp(h, across(w), ids, tied=tied, implementation=name)
    return op, lambda h, w: sum(jnp.sum(x) for x in op(h, w))
  compiled = lambda f: jax.jit(f).lower(hidden, weight).compile()
  made = {}
  for name in names:
    forward, loss = programs(name)
    if forward is not None:
      made[name, 'forward'] = compiled(forward)
    made[name, 'gradient'] = compiled(jax.grad(loss, argnums=(0, 1)))
  times = {key: [] for key in made}
  for _ in range(1 + repeats):
    for key, run in made.items():
      start = time.perf_counter()
      jax.block_until_ready(run(hidden, weight))
      times[key].append(time.perf_counter() - start)
  ms = {key: 1e3 * statistics.median(t[1:]) for key, t in times.items()}
  mib = {key: run.memory_analysis().temp_size_in_bytes / 2**20 for key, run in made.items()}
  return [Head(name, ms.get((name, 'forward')), ms[name, 'gradient'], mib.get((name, 'forward')), mib[name, 'gradient']) for name in names]


def main(argv):
  shapes = ((*map(int, argv[:3]), argv[3] if argv[3:] else 'float32'),) if argv else SHAPES
  for shape in shapes:
    for head in measure(*shape):
      forward = '' if head.forward_ms is None else f'forward {head.forward_ms:.2f} ms, {head.forward_mib:.1f} MiB; '
      print(f'{shape} {head.name}: {forward}with gradient {head.gradient_ms:.2f} ms, {head.gradient_mib:.1f} MiB')


if __name__ == '__main__':
  main(sys.argv[1:])
