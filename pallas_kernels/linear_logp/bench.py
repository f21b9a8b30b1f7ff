"""Times `linear_logp`, forward and backward: `python -m pallas_kernels.linear_logp.bench [tokens width vocab dtype]`."""

import statistics
import sys
import time

import jax
import jax.numpy as jnp

from pallas_kernels.linear_logp import api

SHAPES = ((24 * 64, 96, 448, 'float32'), (1024, 576, 16384, 'float32'))
REPEATS = 15


def measure(name: str, tokens: int, width: int, vocab: int, dtype: str) -> tuple[float, float, float]:
  """(forward ms, forward and backward ms, temporary MiB of both), medians over `REPEATS` calls."""
  a, b, c = jax.random.split(jax.random.key(0), 3)
  hidden = jax.random.normal(a, (tokens, width), dtype)
  weight = jax.random.normal(b, (width, vocab), dtype) * width**-.5
  ids = jax.random.randint(c, (tokens,), 0, vocab)
  op = lambda hidden, weight: api.linear_logp(hidden, weight, ids, implementation=name)
  loss = lambda hidden, weight: sum(jnp.sum(x) for x in op(hidden, weight))
  forward = jax.jit(op).lower(hidden, weight).compile()
  both = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(hidden, weight).compile()
  return (_median_ms(forward, hidden, weight), _median_ms(both, hidden, weight),
          both.memory_analysis().temp_size_in_bytes / 2**20)


def _median_ms(fn, *args):
  jax.block_until_ready(fn(*args))
  times = []
  for _ in range(REPEATS):
    start = time.perf_counter()
    jax.block_until_ready(fn(*args))
    times.append(time.perf_counter() - start)
  return 1e3 * statistics.median(times)


def main(argv):
  shapes = ((*map(int, argv[:3]), argv[3] if argv[3:] else 'float32'),) if argv else SHAPES
  for shape in shapes:
    for name in api.IMPLEMENTATIONS:
      forward, both, temp = measure(name, *shape)
      print(f'{shape} {name}: forward {forward:.2f} ms, with backward {both:.2f} ms, temporary {temp:.1f} MiB')


if __name__ == '__main__':
  main(sys.argv[1:])
