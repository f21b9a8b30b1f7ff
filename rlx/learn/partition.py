"""Which parameters a learner trains: two trees of one structure, with None where the other has the leaf.

Only the trained leaves are differentiated, have moments and stand in checkpoints. The others, the base, come from the seed,
a file or another run, are never donated, and may be shared by several models.
"""

from collections.abc import Callable
from typing import Any

import jax

from rlx.types import Policy

absent = lambda x: x is None


def partition(params: Any, trainable: Callable[[str], bool] | None) -> tuple[Any, Any]:
  """(trained, base) of a tree of arrays or shapes.

  Args:
    params: the parameters. Those of heads (`params['heads']`) are always trained.
    trainable: of the path of a leaf, 'layers/attention/q/kernel'; None: all are trained.
  """
  def chosen(path):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    return trainable is None or name.startswith('heads/') or bool(trainable(name))
  trained = jax.tree_util.tree_map_with_path(lambda path, x: x if chosen(path) else None, params)
  return trained, rest(params, trained)


def trained(policy: Policy, params: Any) -> Any:
  """The leaves of a policy's parameters that are trained."""
  return params if policy.trainable is None else partition(params, policy.trainable)[0]


def rest(params: Any, trained: Any) -> Any:
  """The leaves of `params` where `trained` has None; None where that is nowhere."""
  base = jax.tree.map(lambda t, p: p if t is None else None, trained, params, is_leaf=absent)
  return base if jax.tree.leaves(base) else None


def combine(trained: Any, base: Any) -> Any:
  """The whole tree again. base: None where all is trained."""
  return trained if base is None else jax.tree.map(lambda t, b: b if t is None else t, trained, base, is_leaf=absent)
