"""Every task of a split equally often, in an order drawn from the seed."""

import numpy as np

from rlx.types import Curriculum


def uniform(*, env, split: str = 'train', seed: int = 0) -> Curriculum:
  """Passes over the split, each in its own random order; the state is the number of tasks drawn so far."""
  tasks = env.tasks(split)
  if not len(tasks):
    raise ValueError(f"the environment has no tasks in split '{split}'.")
  orders = {}

  def order(epoch):
    if epoch not in orders:
      orders.clear()
      orders[epoch] = np.random.default_rng((seed, epoch)).permutation(len(tasks))
    return orders[epoch]

  def sample(drawn, n, key):
    del key
    picks = [tasks[int(order(i // len(tasks))[i % len(tasks)])] for i in range(drawn, drawn + n)]
    return drawn + n, picks

  return Curriculum(init=lambda: 0, sample=sample, update=lambda drawn, groups: drawn)
