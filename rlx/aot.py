"""Compiles the training step for accelerators that are not here, and says what it would need of each:

  python -m rlx.aot --device v5e:2x2 --model qwen2.5-1.5b --rows 16 --width 2048

The step is the one `rlx.train` runs (GRPO's clipped loss, AdamW, bf16 compute, remat of whole layers), its parameters split over
all devices. Nothing is run: the compiler alone reads shapes. It comes with the extra `aot-tpu` (TPU topologies) or `aot-gpu` (H200).
"""

import argparse
from collections import Counter
from collections.abc import Sequence
import importlib.util
import os
import pathlib
import re
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh

from rlx import assemble
from rlx.learn import mesh as meshes
from rlx.learn import objective, optimizers
from rlx.learn import state as states
from rlx.models.transformer import transformer
from rlx.types import Batch, Nodes, Tokens

GIB = 2**30
# bytes of high-bandwidth memory that a program may use, as the compilers report them
MEMORY = {'v4': 31.25 * GIB, 'v5e': 15.75 * GIB, 'v5p': 95.74 * GIB, 'v6e': 31.25 * GIB, 'tpu7x': 94.75 * GIB, 'h200': 150121545728.}
MODELS = {
    'A': dict(vocab=4096, layers=4, dim=256, heads=4, kv_heads=2, ff=1024),
    'smollm2': dict(vocab=49152, layers=30, dim=576, heads=9, kv_heads=3, ff=1536, rope_base=1e5),
    'qwen2.5-1.5b': dict(vocab=151936, layers=28, dim=1536, heads=12, kv_heads=2, head_dim=128, ff=8960, qkv_bias=True, rope_base=1e6)}
COLLECTIVES = 'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute'


class Compiled(NamedTuple):
  """What a program needs of each device, in bytes, and how it was made."""
  devices: int
  memory: float         # a device has
  arguments: int
  outputs: int          # not counting those that take an argument's place
  temporary: int
  seconds: float
  collectives: dict[str, int]
  text: str             # optimised HLO

  @property
  def total(self) -> int:
    return self.arguments + self.outputs + self.temporary


def devices(name: str) -> tuple[Sequence, float]:
  """The devices of a topology that need not be here, and the memory of each: 'v5e:2x2', 'v6e:4x4', 'h200', 'h200:8'.

  Raises:
    ValueError: a device that is not known, a topology its compiler refuses, or a compiler that is not installed.
  """
  kind, _, shape = name.partition(':')
  if kind not in MEMORY:
    raise ValueError(f"device '{name}' is not known; give one of {', '.join(sorted(MEMORY))}, TPUs with a topology such as v5e:2x2.")
  wheel, extra = ('jax_cuda13_plugin', 'aot-gpu') if kind == 'h200' else ('libtpu', 'aot-tpu')
  if importlib.util.find_spec(wheel) is None:
    raise ValueError(f"the compiler for {kind} is not installed: pip install -e '.[{extra}]'.")
  try:
    if kind == 'h200':
      target = pathlib.Path(__file__).with_name('aot_h200.txtpb').read_text()
      found = topologies.get_topology_desc(platform='cuda', target_config=target, topology=f'1x1x{shape or 1}')
    else:
      # several processes may compile at once, and no machine is asked what it is
      os.environ.update(ALLOW_MULTIPLE_LIBTPU_LOAD='1', TPU_SKIP_MDS_QUERY='1', TPU_WORKER_HOSTNAMES='localhost')
      os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
      found = topologies.get_topology_desc(platform='tpu', topology_name=name)
  except Exception as e:   # whatever the compiler's runtime raises, its first line says why
    raise ValueError(f"topology '{name}' is refused: {str(e).splitlines()[0]}") from e
  return found.devices, MEMORY[kind]


def abstract(mesh: Mesh, rows: int, width: int, steps: int) -> Batch:
  """The shapes of a batch with one reward and no other column, placed as a run places it."""
  of = lambda *shape: lambda dtype: jax.ShapeDtypeStruct(shape, dtype)
  token, step, i32, f32 = of(rows, width), of(steps), jnp.int32, jnp.float32
  batch = Batch(
      nodes=Nodes(parent=step(i32), group=step(i32), valid=step(bool), end=step(i32), reward=dict(task=step(f32))),
      tokens=Tokens(ids=token(i32), node=token(i32), segment=token(i32), position=token(i32), sampled=token(bool),
                    mask=token(bool), logp=token(f32)))
  return _placed(batch, meshes.shard_batch(batch, mesh))


def _placed(tree, shardings):
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def training_step(device: str, model: str, *, rows: int = 16, width: int = 2048, actions: int | None = None,
                  microbatch: int | None = None, head: str | None = None, remat: str = 'full', steps: int = 1024) -> Compiled:
  """Compiles one update of GRPO on `rows` x `width` tokens, parameters and moments split over all devices (axis fsdp).

  Args:
    device: as in `devices`.
    model: a key of `MODELS`.
    rows, width: tokens of a minibatch.
    actions: sampled tokens a row at most, None: all.
    microbatch: rows a backward pass, None: all.
    head: as in `configs/base.py`.
    remat: what the backward pass computes again.
    steps: of the batch.

  Raises:
    ValueError: as `devices`, a model that is not known, rows that do not divide over the devices, or a program that the compiler finds
      does not fit.
  """
  if model not in MODELS:
    raise ValueError(f"model '{model}' is not known; there are {', '.join(MODELS)}.")
  found, memory = devices(device)
  mesh = meshes.create(fsdp=len(found), devices=found)
  policy = transformer(**MODELS[model], dtype='bfloat16', remat=remat)
  tx = optimizers.adamw(learning_rate=1e-6)
  tracks = assemble.tracks(dict(main=dict(estimator=('grpo',), average='token_mean', loss=('ppo_clip',))))
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  params = _placed(shapes, meshes.shard_params(shapes, (('.*', 'fsdp'),), mesh))
  where = states.shardings(params, tx, tracks)
  state = states.TrainState(params=params, opt_state=jax.eval_shape(tx.init, params), carry=jax.eval_shape(lambda: objective.init(tracks)),
                            updates=jax.ShapeDtypeStruct((), jnp.int32))
  batch = abstract(mesh, rows, width, steps)
  token = lambda dtype: jax.ShapeDtypeStruct((rows, width), dtype, sharding=meshes.over_rows(mesh))
  everywhere = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.asarray(x).dtype, sharding=meshes.replicated(mesh))
  update = states.update(tracks, policy, tx, temperature=1., microbatch=microbatch, actions=actions, implementation=head, where=where)
  start = time.perf_counter()
  lowered = update.lower(_placed(state, where), batch, dict(main=objective.Credit(adv=token(jnp.float32), keep=token(bool))),
                         everywhere(jnp.zeros(rows, jnp.int32)), jax.tree.map(everywhere, objective.floats(tracks, 0)),
                         everywhere(jax.random.key(0)))
  try:
    done = lowered.compile()
  except jax.errors.JaxRuntimeError as e:
    raise ValueError(f'{model} with {rows} x {width} tokens cannot be compiled for {device}: {str(e).splitlines()[0]}') from e
  used, text = done.memory_analysis(), done.as_text()
  return Compiled(len(found), memory, used.argument_size_in_bytes, used.output_size_in_bytes - used.alias_size_in_bytes,
                  used.temp_size_in_bytes, time.perf_counter() - start, collectives(text), text)


def collectives(text: str) -> dict[str, int]:
  """How often each collective stands in an HLO program; one inside a loop counts once."""
  counts = Counter(re.findall(rf'^\s*(?:ROOT )?\S+ = [^"]*? ({"|".join(COLLECTIVES)})(?:-start)?\(', text, re.M))
  return {k: counts[k] for k in COLLECTIVES if counts[k]}


def report(name: str, found: Compiled) -> str:
  """A few lines on what a program needs."""
  gib = lambda x: f'{x / GIB:.2f} GiB'
  share = found.total / found.memory
  return '\n'.join((
      f'{name}: {found.devices} device(s), compiled in {found.seconds:.1f} s',
      f'  arguments {gib(found.arguments)}, temporary {gib(found.temporary)}, outputs beside them {gib(found.outputs)} a device',
      f'  total {gib(found.total)} of {gib(found.memory)}, {share:.0%}: {"fits" if share <= 1 else "does not fit"}',
      f'  collectives in the program: {", ".join(f"{n} {k}" for k, n in found.collectives.items()) or "none"}'))


def main(argv: Sequence[str] | None = None) -> int:
  """Compiles, and prints the bytes each device needs; 1 where they are more than it has."""
  top = argparse.ArgumentParser(prog='python -m rlx.aot', description='Compiles the training step for devices that are not here.')
  top.add_argument('--device', default='v5e:2x2', help='a TPU topology (v5e:2x2, v6e:4x4 ...), h200 or h200:8; default v5e:2x2')
  top.add_argument('--model', default='qwen2.5-1.5b', choices=sorted(MODELS), help='shape of the policy; default qwen2.5-1.5b')
  top.add_argument('--rows', type=int, default=16, help='rows of the minibatch; default 16')
  top.add_argument('--width', type=int, default=2048, help='tokens of a row; default 2048')
  top.add_argument('--actions', type=int, help='sampled tokens a row at most; default all')
  top.add_argument('--microbatch', type=int, help='rows of a backward pass; default all')
  top.add_argument('--head', choices=assemble.HEADS, help='how the head makes its gradient; default: the best there is')
  top.add_argument('--remat', default='full', choices=('none', 'full', 'dots'), help='what the backward pass computes again; default full')
  args = vars(top.parse_args(argv))
  jax.config.update('jax_platforms', 'cpu')   # a compiler's wheel alone must not be taken for its device
  try:
    found = training_step(**args)
  except ValueError as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  print(report(f'{args["model"]}, {args["rows"]} x {args["width"]} tokens on {args["device"]}', found))
  return int(found.total > found.memory)


if __name__ == '__main__':
  sys.exit(main())
