"""The policy: a decoder-only transformer in plain JAX.

Dims: `R` rows, `T` tokens, `L` layers, `D` width, `H` heads, `K` key-value heads, `Dh` size of a head, `F` hidden units,
`V` vocabulary, `S` cached tokens, `G` tokens of a turn.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rlx.models import lora as loras
from rlx.models.cached import HIDDEN, cached, visible
from rlx.types import Policy

@dataclasses.dataclass(frozen=True)
class Config:
  """What the functions of a policy were closed over."""
  vocab: int
  layers: int
  dim: int
  heads: int
  kv_heads: int
  head_dim: int
  ff: int
  activation: str
  rope_base: float
  rope_scaling: tuple | None
  norm_eps: float
  tied: bool
  qkv_bias: bool
  qk_norm: bool
  embed_scale: bool
  dtype: str
  remat: str
  unroll: bool
  init_scale: float
  embed_init: float
  residual_init: float
  freeze: int
  lora: loras.Adapters | None


def transformer(*, vocab: int, layers: int = 2, dim: int = 128, heads: int = 4, kv_heads: int | None = None,
                head_dim: int | None = None, ff: int | None = None, activation: str = 'swiglu', rope_base: float = 10000.,
                rope_scaling: Mapping | None = None, norm_eps: float = 1e-6, tied: bool = True, qkv_bias: bool = False,
                qk_norm: bool = False, embed_scale: bool = False, dtype: str = 'float32', remat: str = 'none',
                unroll: bool | None = None, init_scale: float = 1., embed_init: float = 0.5,
                residual_init: float = 0.5, freeze: int = 0, lora: Mapping | None = None) -> Policy:
  """A decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, gated or squared-ReLU units.

    x += o(attention(norm(x)));  x += down(act(norm(x)));  hidden = norm(x);  logits = hidden @ head

  Parameters are a dict of float32 arrays, stacked over layers: 'layers/attention/q/kernel' is `[L, D, H * Dh]`. Rotary
  positions follow the half-split convention of Hugging Face checkpoints (arXiv:2104.09864; `rotate_half`), grouped-query
  attention arXiv:2305.13245, SwiGLU arXiv:2002.05202, squared ReLU arXiv:2109.08668, query and key norms arXiv:2010.04245.

  Args:
    vocab: size of the vocabulary.
    layers, dim, heads: depth, width, query heads.
    kv_heads: key-value heads, a divisor of `heads`; None: as many.
    head_dim: None: dim / heads.
    ff: hidden units; None: 8/3 dim for 'swiglu', 4 dim for 'relu2', rounded up to a multiple of 8.
    activation: 'swiglu' | 'relu2'.
    rope_base: base of the rotary frequencies.
    rope_scaling: None, dict(rope_type='linear', factor=...), or Llama 3.1's dict(rope_type='llama3', factor=...,
      low_freq_factor=..., high_freq_factor=..., original_max_position_embeddings=...).
    norm_eps: added to the mean square.
    tied: the head is the embedding's transpose.
    qkv_bias: biases on q, k and v.
    qk_norm: RMSNorm over each head of q and k, before the rotation.
    embed_scale: multiplies embeddings by sqrt(dim).
    dtype: of the computation, 'float32' | 'bfloat16': of products, the residual stream and the cache. Parameters (and so their
      gradients and moments), norms, softmax, logits and log-probabilities are float32. The sampler's log-probabilities are those of training to 1e-4 in
      float32, to 0.2 nats (0.03 on average) in bfloat16.
    remat: what the backward pass computes again: 'none', 'full' (a layer keeps its input only), 'dots' (keeps matrix products).
    unroll: a Python loop over layers instead of `lax.scan`: faster on a CPU, slower to compile. None: up to 4 layers.
    init_scale, embed_init, residual_init: standard deviations at the start, times 1 / sqrt(inputs) for kernels, 1 / sqrt(dim)
      for the embedding and 1 / sqrt(inputs * layers) for the two kernels that write to the residual stream.
    freeze: the embedding (with it a tied head) and this many of the lowest layers are not trained; they stand in 'lower/...',
      of which nothing is kept or computed for the backward pass. 0: everything is trained.
    lora: None, or dict(rank=16, alpha=32., targets=('q', 'k', 'v', 'o', 'gate', 'up', 'down')), by default all that a layer
      has: only adapters of these products are trained, with `freeze` those of the layers above. See `rlx.models.lora`.

  Returns:
    `Policy(init, apply, head, config)`, with `trainable` where not all is trained. `apply(params, ids, position, last, cache=None, pick=None)` with all three `[R, T]`
    i32 gives (hidden `[R, T, D]` after the final norm, cache). `params` may be what `split` returns. `pick` `[R, P]` i32
    names the only tokens whose hidden state is wanted: `[R, P, D]`, and the last layer's work for the others is saved.

  Raises:
    ValueError: sizes that do not divide, an odd head size, an unknown activation, remat or kind of rope scaling, a `freeze` that leaves no layer,
      a rank below 1 or a target that the layers do not have.

  Proof: twin.
  """
  kv_heads = heads if kv_heads is None else kv_heads
  if head_dim is None and dim % heads:
    raise ValueError(f'dim={dim} is not a multiple of heads={heads}; give head_dim')
  head_dim = dim // heads if head_dim is None else head_dim
  if heads % kv_heads:
    raise ValueError(f'heads={heads} is not a multiple of kv_heads={kv_heads}')
  if head_dim % 2:
    raise ValueError(f'head_dim={head_dim} is odd; rotary positions need pairs')
  known_values = dict(activation=(activation, ('swiglu', 'relu2')), remat=(remat, ('none', 'full', 'dots')))
  for name, (value, known) in known_values.items():
    if value not in known:
      raise ValueError(f'{name}={value!r} is not one of {known}')
  if isinstance(freeze, bool) or not isinstance(freeze, int) or not 0 <= freeze < layers:
    raise ValueError(f'freeze={freeze!r} must be a whole number of layers, 0 to {layers - 1}: at least one of {layers} is trained')
  products = [name for name in loras.TARGETS if name != 'gate' or activation == 'swiglu']
  if ff is None:
    ff = -(-(8 * dim // 3 if activation == 'swiglu' else 4 * dim) // 8) * 8
  c = Config(
      vocab=vocab, layers=layers, dim=dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim, ff=ff, activation=activation,
      rope_base=float(rope_base), rope_scaling=tuple(sorted(rope_scaling.items())) if rope_scaling else None,
      norm_eps=float(norm_eps), tied=tied, qkv_bias=qkv_bias, qk_norm=qk_norm, embed_scale=embed_scale,
      dtype=jnp.dtype(dtype).name, remat=remat, unroll=layers <= 4 if unroll is None else unroll,
      init_scale=float(init_scale), embed_init=float(embed_init), residual_init=float(residual_init),
      freeze=freeze, lora=None if lora is None else loras.adapters(lora, products))
  rates = frequencies(c)

  def init(key):
    params = _init(c, key)
    if c.freeze:
      params = loras.lowered(params, c.freeze)
    return params if c.lora is None else loras.adapted(params, c.lora, jax.random.fold_in(key, 9))

  def apply(params, ids, position, last, cache=None, pick=None):
    return _apply(c, rates, params, ids, position, last, cache, pick)

  def head(params):
    if c.tied:
      return params['embed']['table'].T
    return params['head']['kernel'] if 'kernel' in params['head'] else params['head']['weight'].T   # as `prepared` leaves it

  def trainable(path):
    return path.rpartition('/')[2] in loras.TRAINED if c.lora else not path.startswith(('embed/', 'lower/'))

  return Policy(init, apply, head, c, trainable=trainable if c.lora or c.freeze else None)


def frequencies(config: Config) -> np.ndarray:
  """`[Dh / 2]` f32 radians a position for each pair of a head: base ** (-2 i / Dh), scaled as the config says.

  'llama3' as in huggingface/transformers `modeling_rope_utils._compute_llama3_parameters`: long waves are slowed down by
  `factor`, short ones kept, those between blended.
  """
  rates = config.rope_base ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
  scaling = dict(config.rope_scaling or ())
  kind = scaling.get('rope_type', scaling.get('type', 'default'))
  if kind == 'linear':
    rates = rates / scaling['factor']
  elif kind == 'llama3':
    low, high = scaling['low_freq_factor'], scaling['high_freq_factor']
    turns = scaling['original_max_position_embeddings'] * rates / (2 * math.pi)
    blend = np.clip((turns - low) / (high - low), 0, 1)
    rates = rates * (blend + (1 - blend) / scaling['factor'])
  elif kind != 'default':
    raise ValueError(f"rope_scaling of type {kind!r} is not one of ('default', 'linear', 'llama3')")
  return rates.astype(np.float32)


def split(params, dtype: str | None = None):
  """Parameters with a list of layers in place of the stacked arrays, for loops over tokens: done once, outside the loop.

  `dtype` is for sampling: adapters are merged, and what is only read in that type is cast: kernels, biases and the embedding.
  Of split parameters a second call changes nothing.
  """
  if dtype is not None:
    params = loras.merged(params)
    params = jax.tree_util.tree_map_with_path(lambda path, x: x if path[-1].key == 'scale' else x.astype(dtype), params)
  if isinstance(params['layers'], list):
    return params
  layers = []
  for stack in [params[name] for name in ('lower', 'layers') if name in params]:
    layers += [jax.tree.map(lambda x: x[i], stack) for i in range(jax.tree.leaves(stack)[0].shape[0])]
  return {**{k: v for k, v in params.items() if k != 'lower'}, 'layers': layers}


# ---- the functions of the policy -----------------------------------------------------------------------------------

def _init(c, key):
  keys = iter(jax.random.split(key, 9))
  def kernel(rows, cols, scale=c.init_scale):
    return dict(kernel=jax.random.normal(next(keys), (c.layers, rows, cols), jnp.float32) * (scale / math.sqrt(rows)))
  def norm(*shape):
    return dict(scale=jnp.ones(shape, jnp.float32))
  residual = c.init_scale * c.residual_init / math.sqrt(c.layers)
  inner, outer = c.heads * c.head_dim, c.kv_heads * c.head_dim
  attention = dict(q=kernel(c.dim, inner), k=kernel(c.dim, outer), v=kernel(c.dim, outer), o=kernel(inner, c.dim, residual))
  if c.qkv_bias:
    for name, size in dict(q=inner, k=outer, v=outer).items():
      attention[name]['bias'] = jnp.zeros((c.layers, size), jnp.float32)
  if c.qk_norm:
    attention |= dict(q_norm=norm(c.layers, c.head_dim), k_norm=norm(c.layers, c.head_dim))
  mlp = dict(up=kernel(c.dim, c.ff), down=kernel(c.ff, c.dim, residual))
  if c.activation == 'swiglu':
    mlp['gate'] = kernel(c.dim, c.ff)
  table = jax.random.normal(next(keys), (c.vocab, c.dim), jnp.float32) * (c.embed_init / math.sqrt(c.dim))
  params = dict(
      embed=dict(table=table), norm=norm(c.dim),
      layers=dict(attention_norm=norm(c.layers, c.dim), attention=attention, mlp_norm=norm(c.layers, c.dim), mlp=mlp))
  if not c.tied:
    kernel = jax.random.normal(next(keys), (c.dim, c.vocab), jnp.float32)
    params['head'] = dict(kernel=kernel * (c.init_scale / math.sqrt(c.dim)))
  return params


FEW = 8   # layers; of more, the last is computed of all tokens: to leave it out of the scan copies the others' weights and gradients


def _apply(c, rates, params, ids, position, last, cache, pick):
  if cache is not None:
    return cached(c, rates, params, ids, position, last, cache, pick)
  x = params['embed']['table'][ids].astype(c.dtype)
  if c.embed_scale:
    x = x * math.sqrt(c.dim)
  angle = position.astype(jnp.float32)[..., None] * rates.reshape(1, 1, -1)
  one = jnp.eye(len(rates), dtype=jnp.float32)   # XLA fuses nothing into a product; else every layer computes the angles again
  rotation = tuple(jnp.dot(f(angle), one, precision='highest') for f in (jnp.cos, jnp.sin))

  def layer(x, w, pick=None):
    return _layer(c, w, x, rotation, last, pick)
  if c.remat != 'none':
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if c.remat == 'dots' else None
    layer = jax.checkpoint(layer, policy=dots)
  layers = params['layers']
  if c.unroll or isinstance(layers, list):
    layers = split(params)['layers']
    for w in layers[:-1]:
      x = layer(x, w)
    x = layer(x, layers[-1], pick)
  else:
    through = lambda x, stack: jax.lax.scan(lambda x, w: (layer(x, w), None), x, stack)[0]
    x = through(x, params['lower']) if 'lower' in params else x
    if pick is None or c.layers > FEW:
      x = through(x, layers)
      x = x if pick is None else jnp.take_along_axis(x, pick[..., None], axis=1)
    else:
      x = layer(through(x, jax.tree.map(lambda w: w[:-1], layers)), jax.tree.map(lambda w: w[-1], layers), pick)
  return _norm(c, x, params['norm']), None


def _layer(c, w, x, rotation, last, pick):
  """x `[R, T, D]` -> x `[R, T or P, D]`."""
  a, y = w['attention'], _norm(c, x, w['attention_norm'])
  heads = lambda z: z.reshape(*z.shape[:2], -1, c.head_dim)
  if pick is None:
    q, k, v, turned = *map(heads, _together(c, y, a, 'qkv')), rotation
  else:
    k, v = map(heads, _together(c, y, a, 'kv'))
    x, y, *turned = (jnp.take_along_axis(z, pick[..., None], axis=1) for z in (x, y, *rotation))
    q = heads(_dense(c, y, a['q']))
  if c.qk_norm:
    q, k = _norm(c, q, a['q_norm']), _norm(c, k, a['k_norm'])
  out = _attend_rows(_rotate(q, turned) / math.sqrt(c.head_dim), _rotate(k, rotation), v, last, pick, c.remat != 'none')
  x = x + _dense(c, out, a['o'])
  y, m = _norm(c, x, w['mlp_norm']), w['mlp']
  if c.activation == 'swiglu':
    gate, up = _together(c, y, m, ('gate', 'up'))
    y = jax.nn.silu(gate) * up
  else:
    y = jnp.square(jax.nn.relu(_dense(c, y, m['up'])))
  return x + _dense(c, y, m['down'])


def _attend_rows(q, k, v, last, pick, remat):
  """Attention inside whole rows. Blocks of queries leave out the keys that all stand after them.

  Up to 8 blocks, so at most `[R, H, T / 8, T]` scores at once in a forward pass, and where `remat` in a backward pass too, which makes
  those of one block again at a time.
  """
  rows, size = last.shape
  k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)
  if pick is not None:
    return _attend(q, k, v, visible(pick, last))
  blocks = max(n for n in (1, 2, 4, 8) if size % n == 0 and (n == 1 or size // n >= 128))
  at = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (rows, size))
  attend = jax.checkpoint(_attend) if remat and blocks > 1 else _attend
  out = []
  for i in range(blocks):
    start, stop = i * size // blocks, (i + 1) * size // blocks
    seen = visible(at[:, start:stop], last[:, :stop])
    out.append(attend(q[:, start:stop], k[:, :, :stop], v[:, :, :stop], seen))
  return jnp.concatenate(out, axis=1)


def _attend(q, k, v, seen):
  """Softmax attention of q `[R, P, H, Dh]` to k, v `[R, K, S, Dh]`, of which seen `[R, P or 1, S]` counts.

  Head h reads key-value head h // (H / K). Returns `[R, P, H * Dh]`.
  """
  rows, picks, heads, size = q.shape
  groups = k.shape[1]
  q = jnp.transpose(q.reshape(rows, picks, groups, heads // groups, size), (0, 2, 3, 1, 4))
  f32 = dict(preferred_element_type=jnp.float32)
  score = jnp.where(seen[:, None, None], jnp.einsum('rkgpd,rksd->rkgps', q, k.astype(q.dtype), **f32), HIDDEN)
  weight = jnp.exp(score - jax.lax.stop_gradient(score.max(-1, keepdims=True)))
  total = weight.sum(-1, keepdims=True)
  out = jnp.einsum('rkgps,rksd->rkgpd', weight.astype(q.dtype), v.astype(q.dtype), **f32)
  out = (out / total).astype(q.dtype)
  return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(rows, picks, heads * size)


def _rotate(x, rotation):
  """Rotates pairs (i, i + Dh / 2) of x `[R, T, heads, Dh]` by the angles of each position."""
  cos, sin = (z[:, :, None].astype(x.dtype) for z in rotation)
  a, b = jnp.split(x, 2, axis=-1)
  return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def _norm(c, x, w):
  y = x.astype(jnp.float32)
  y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + c.norm_eps)
  return (y * w['scale'].reshape((1,) * (x.ndim - 1) + (-1,))).astype(c.dtype)


def _together(c, x, w, names):
  """`_dense` of several kernels on one input: one product, which for a small model is faster than several."""
  parts = [w[name] for name in names]
  if any('lora_a' in p for p in parts):
    return [_dense(c, x, p) for p in parts]
  ends = np.cumsum([p['kernel'].shape[-1] for p in parts])[:-1].tolist()
  whole = {k: jnp.concatenate([p[k].astype(c.dtype) for p in parts], axis=-1) for k in parts[0]}
  return jnp.split(_dense(c, x, whole), ends, axis=-1)


def _dense(c, x, w):
  y = x @ w['kernel'].astype(c.dtype)
  if 'lora_a' in w:
    y = y + (x @ w['lora_a'].astype(c.dtype) * w['lora_scale'].astype(c.dtype)) @ w['lora_b'].astype(c.dtype)
  return y + w['bias'].astype(c.dtype)[None, None] if 'bias' in w else y
