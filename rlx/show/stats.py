"""Intervals: Wilson's for a share of right answers, Student's t over seeds."""

import math
from collections.abc import Sequence

from scipy import special


def wilson(right: float, count: int, *, confidence: float = 0.95) -> tuple[float, float]:
  """Wilson's score interval of a proportion.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n),   p = right / n

  Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1 (https://doi.org/10.1214/ss/1009213286).

  Args:
    right: successes, in [0, count].
    count: n, the number of independent answers.
    confidence: in (0, 1).

  Returns:
    (low, high) in [0, 1]; (0, 1) where count is 0.

  Raises:
    ValueError: right is not in [0, count].
  """
  if not 0 <= right <= count:
    raise ValueError(f'{right} right answers of {count}')
  if not count:
    return 0., 1.
  z, p = float(special.ndtri((1 + confidence) / 2)), right / count
  middle = p + z * z / (2 * count)
  half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count * count))
  scale = 1 + z * z / count
  return max((middle - half) / scale, 0.), min((middle + half) / scale, 1.)


def t_interval(values: Sequence[float], *, confidence: float = 0.95) -> tuple[float, float, float]:
  """Mean of a few runs and Student's interval of it: mean -+ t(n - 1) s / sqrt(n), s with n - 1.

  Args:
    values: one number a seed.
    confidence: in (0, 1).

  Returns:
    (mean, low, high); the ends are nan for fewer than two values, all three for none.
  """
  n = len(values)
  if not n:
    return math.nan, math.nan, math.nan
  mean = math.fsum(values) / n
  if n == 1:
    return mean, math.nan, math.nan
  s = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
  half = float(special.stdtrit(n - 1, (1 + confidence) / 2)) * s / math.sqrt(n)
  return mean, mean - half, mean + half
