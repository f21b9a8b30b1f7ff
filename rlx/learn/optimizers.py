"""Optimizers by name; all of optax is one line away."""

from typing import Any

import optax


def adamw(*, learning_rate: Any = 1e-6, b1: float = .9, b2: float = .999, eps: float = 1e-8, weight_decay: float = 0.,
          clip: float | None = 1.) -> optax.GradientTransformation:
  """AdamW after clipping by the global norm.

  Args:
    learning_rate: a float, or a schedule of the number of updates.
    b1, b2, eps, weight_decay: as in optax.
    clip: largest global norm of the gradient, None: not clipped.
  """
  steps = [optax.clip_by_global_norm(clip)] if clip is not None else []
  return optax.chain(*steps, optax.adamw(learning_rate, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay))


def sgd(*, learning_rate: Any = 1e-3, momentum: float | None = None, clip: float | None = 1.) -> optax.GradientTransformation:
  """Stochastic gradient descent after clipping by the global norm."""
  steps = [optax.clip_by_global_norm(clip)] if clip is not None else []
  return optax.chain(*steps, optax.sgd(learning_rate, momentum=momentum))
