"""Adapters of low rank, frozen lower layers, and the way back to plain parameters.

Plain parameters of the transformer have one stack of all layers, `layers`, and only kernels and biases in a product. With
frozen layers the n lowest are a stack of their own, `lower` (layers 0 to n - 1), and `layers` holds the others. An adapted
product has three leaves beside its kernel `[L, in, out]`: `lora_a` `[L, in, r]`, `lora_b` `[L, r, out]`, `lora_scale` `[L]`.

  y = x W + (alpha / r) (x A) B        A ~ normal(0, 1 / in), B = 0 at the start (arXiv:2106.09685, section 4.1)
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

TARGETS = dict(q='attention', k='attention', v='attention', o='attention', gate='mlp', up='mlp', down='mlp')   # where each stands
TRAINED = ('lora_a', 'lora_b')


class Adapters(NamedTuple):
  """What `lora=dict(rank=16, alpha=32, targets=('q', 'v'))` says."""
  rank: int = 16
  alpha: float = 32.
  targets: tuple[str, ...] = ()


def adapters(spec: Mapping, there: Sequence[str]) -> Adapters:
  """The keywords of `lora`, checked; `there`: the products that a layer has, which are the targets where none are named.

  Raises:
    ValueError: an unknown keyword, a rank below 1, an alpha that is not positive, no target, or one that a layer does not have.
  """
  if unknown := sorted(set(spec) - set(Adapters._fields)):
    raise ValueError(f'lora has no keyword {unknown[0]!r}; it takes {", ".join(Adapters._fields)}')
  rank, alpha, targets = Adapters(**{'targets': there, **spec})
  targets = (targets,) if isinstance(targets, str) else tuple(targets)
  if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
    raise ValueError(f'lora.rank must be a whole number of at least 1, not {rank!r}')
  if not alpha > 0:
    raise ValueError(f'lora.alpha must be positive, not {alpha!r}')
  if not targets or set(targets) - set(there):
    raise ValueError(f'lora.targets must be some of {tuple(there)}, which the layers have, not {targets}')
  return Adapters(rank, float(alpha), targets)


def adapted(params: Any, lora: Adapters, key: jax.Array) -> Any:
  """Parameters with fresh adapters in `layers`. They change nothing yet."""
  groups = {group: dict(params['layers'][group]) for group in ('attention', 'mlp')}
  for i, (name, group) in enumerate(TARGETS.items()):
    if name in lora.targets:
      w = groups[group][name]
      count, rows, cols = w['kernel'].shape
      a = jax.random.normal(jax.random.fold_in(key, i), (count, rows, lora.rank), jnp.float32) / math.sqrt(rows)
      groups[group][name] = {**w, 'lora_a': a, 'lora_b': jnp.zeros((count, lora.rank, cols), jnp.float32),
                             'lora_scale': jnp.full(count, lora.alpha / lora.rank, jnp.float32)}
  return {**params, 'layers': {**params['layers'], **groups}}


def lowered(params: Any, count: int) -> Any:
  """Plain parameters with the lowest `count` layers in `lower`."""
  part = lambda *where: jax.tree.map(lambda x: x[slice(*where)], params['layers'])
  return {**params, 'lower': part(count), 'layers': part(count, None)}


def merged(params: Any, dtype: str | None = None) -> Any:
  """Parameters without adapters that say the same: each kernel is W + (alpha / r) A B. The other leaves are the same arrays.

  dtype: of the merged kernels, None: the kernel's own. The sum is made in float32.
  """
  def walk(w):
    if not isinstance(w, Mapping):
      return w
    if 'lora_a' not in w:
      return {k: walk(v) for k, v in w.items()}
    plain = {k: v for k, v in w.items() if not k.startswith('lora_')}
    kernel = _merge(w['kernel'], w['lora_a'], w['lora_b'], w['lora_scale'], dtype=dtype or w['kernel'].dtype.name)
    return {**plain, 'kernel': kernel}
  return walk(params)


@functools.partial(jax.jit, static_argnames='dtype')
def _merge(kernel, a, b, scale, dtype):
  change = jnp.matmul(a, b, precision='highest', preferred_element_type=jnp.float32)
  return (kernel.astype(jnp.float32) + scale[:, None, None] * change).astype(dtype)


def whole(params: Any) -> Any:
  """Plain parameters that say the same: adapters merged, all layers in one stack. For saving, and for other policies."""
  params = merged(params)
  if 'lower' not in params:
    return params
  layers = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), params['lower'], params['layers'])
  return {**{k: v for k, v in params.items() if k != 'lower'}, 'layers': layers}


def arranged(plain: Any, like: Any) -> Any:
  """Plain parameters in the layout of `like`, whose adapters they get.

  Raises:
    ValueError: `like` is not the layout of these parameters; the message names the first leaf that differs.
  """
  shapes = lambda tree: {jax.tree_util.keystr(p, simple=True, separator='/'): x.shape for p, x in jax.tree_util.tree_leaves_with_path(tree)}
  have, want = shapes(plain), shapes(jax.eval_shape(whole, like))
  if differing := sorted(k for k in {**have, **want} if have.get(k) != want.get(k)):
    k = differing[0]
    raise ValueError(f"'{k}' is {have.get(k, 'absent')} in the one and {want.get(k, 'absent')} in the other")
  count = jax.tree.leaves(like['lower'])[0].shape[0] if 'lower' in like else 0

  def leaf(path, x):
    names = [p.key for p in path]
    if names[-1].startswith('lora_'):
      return x
    stack = names[0]
    found = plain
    for name in ('layers', *names[1:]) if stack == 'lower' else names:
      found = found[name]
    return found[:count] if stack == 'lower' else found[count:] if stack == 'layers' and count else found
  return jax.tree_util.tree_map_with_path(leaf, like)
