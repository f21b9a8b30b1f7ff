"""Checks a config before anything is loaded or trained: every phase is traced on an abstract batch."""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from rlx import assemble
from rlx.config import ConfigError
from rlx.grow.tokenizer import Tokenizer, render, shown
from rlx.learn import mesh as meshes
from rlx.learn import objective
from rlx.learn.pack import Bucket
from rlx.learn.partition import trained
from rlx.types import Batch, Model, Nodes, Tokens, Turn

SHAPE = jax.ShapeDtypeStruct


class _Column(dict):
  """The columns of one table; asking for one that nothing writes is a `ConfigError`."""
  table = ''

  def __missing__(self, name):
    what = dict(reward='reward channel', label='label', stream='stream', role='role', value='value', prompt='prompt column')[self.table]
    cure = dict(stream="add a transform that writes it, such as dict(name='score', model=..., into=...)",
                label='name it in c.labels, or use an environment that gives it',
                role='choose a c.segment that gives it', value='add a probe that writes it',
                reward='add a reward that pays it', prompt='add a probe that writes it')[self.table]
    raise ConfigError(f"reads the {what} '{name}', which nothing writes (there are {', '.join(sorted(self)) or 'none'}): {cure}.")


jax.tree_util.register_pytree_node(
    _Column, lambda d: (tuple(d[k] for k in sorted(d)), (d.table, tuple(sorted(d)))),
    lambda aux, children: _column(aux[0], dict(zip(aux[1], children, strict=True))))


def _column(table, values):
  out = _Column(values)
  out.table = table
  return out


def _columned(batch):
  """The batch with columns that know their name again: a method that adds one makes a plain dict of them."""
  table = lambda holder, *names: dataclasses.replace(holder, **{k: _column(k, dict(getattr(holder, k))) for k in names})
  return dataclasses.replace(batch, tokens=table(batch.tokens, 'stream', 'role'), nodes=table(batch.nodes, 'reward', 'label', 'value'))


def check(c: ml_collections.ConfigDict, env: Any, phases: Sequence[assemble.Phase]) -> str:
  """Traces transforms, credit, selection, averages and losses of every phase; nothing is computed.

  Returns:
    A few lines on what will run: per phase the learners, the shapes, and the bytes each device will need.

  Raises:
    ConfigError: a column nobody writes, a wrong shape, a vocabulary that does not fit; the message names the method.
  """
  files(c)
  size = int(dict(c.tokenizer).get('size', 512)) if c.tokenizer is not None and not isinstance(c.tokenizer, str) else 512
  if assemble.pretrained_tokenizer(c) is not None:      # of nearly its policy's size, and only that is known here
    size = assemble.policies(c, 'policy', c.models.policy, None).config.vocab
  policies = {n: assemble.policies(c, n, s, _vocab(c, s, size)) for n, s in c.models.items()}
  wanted, lines = assemble.heads(c), []
  if idle := sorted(set(c.heads) - {h for names in wanted.values() for h in names}):
    raise ConfigError(f"c.heads names '{idle[0]}', which no loss and no transform reads; they read {sorted({h for v in wanted.values() for h in v})}.")
  original = lambda n: c.models[n]['copy'] if assemble.copies(c.models[n]) else n
  abstract = {n: jax.eval_shape(lambda k, n=n, p=p: assemble.with_heads(p.init(k), p, wanted.get(original(n), ()), k), jax.random.key(0))
              for n, p in policies.items()}
  for phase in phases:
    if not len(phase.plan.env.tasks(getattr(phase.curriculum, 'split', 'train'))):
      raise ConfigError(f"phase '{phase.name}': the environment has no task.")
    path = phase.source.static.get('path')
    if path and not os.path.exists(path):
      raise ConfigError(f"phase '{phase.name}': file '{path}' of its source does not exist.")
    bucket = phase.buckets[-1]
    batch = abstract_batch(bucket, assemble.columns(phase))
    jax.eval_shape(lambda batch, phase=phase: _trace(phase, policies, abstract, batch), batch)
    lines.append(_line(phase, policies, abstract, bucket))
  return '\n'.join(lines)


def _vocab(c, spec, size):
  """The vocabulary to trace with: what the spec says, otherwise the tokenizer's."""
  del c
  given = dict(spec).get('vocab') if spec is not None and not isinstance(spec, str) else None
  return given or size


def files(c: ml_collections.ConfigDict) -> None:
  """Files, folders and devices that the config names must be there."""
  spec = c.tokenizer
  path = spec.get('path') if hasattr(spec, 'get') and spec.get('name') == 'file' else None
  if path and not os.path.isfile(path):
    raise ConfigError(f"tokenizer file '{path}' does not exist: give c.tokenizer.path an existing tokenizer.json.")
  try:
    meshes.create(**c.mesh)
  except (TypeError, ValueError) as e:
    raise ConfigError(f'c.mesh: {e}') from e
  if c.init_from and not os.path.isdir(c.init_from):
    raise ConfigError(f"init_from '{c.init_from}' does not exist: give it the workdir of a run.")


def contexts(phases: Sequence[assemble.Phase], env: Any, tok: Tokenizer) -> None:
  """Renders two turns of every phase before anything is loaded: a chat template may refuse them.

  Raises:
    ConfigError: it does, or there is none and the context needs one.
  """
  for phase in phases:
    task = env.tasks(getattr(phase.curriculum, 'split', 'train'))[0]
    try:
      obs = env.reset(task, 0)[1].text
    except Exception:   # foreign code, that a run counts and survives
      continue
    try:
      render(phase.plan.context([Turn(obs, 'a'), Turn(obs)], task), [shown('a', tok)], tok)
    except ValueError as e:
      raise ConfigError(f"phase '{phase.name}': {e}") from e


def _trace(phase, policies, params, batch):
  models = {n: Model(p, params[n], None) for n, p in policies.items()}
  real = {n: m._replace(params=jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), m.params)) for n, m in models.items()}
  key, step = jax.random.key(0), jnp.int32(0)
  where = f"phase '{phase.name}'"
  for t in phase.transforms:
    run = lambda t=t, batch=batch: objective.apply(t, t.floats(), objective.memory([t])[0], batch, models=real, step=step, key=key)[1]
    batch = _columned(_said(f"{where}: transform '{t.name}'", run))
  for learner in phase.learners:
    for name, track in learner.tracks.items():
      one, at = {name: track}, f"{where}: track '{name}' of learner '{learner.name}'"
      hypers = objective.floats(one, 0)
      named = batch
      batch, credits, carry = _said(f'{at} ({_chain(track)})', lambda: objective.credit(
          one, hypers, objective.init(one), named, step=step, key=key, models=real))
      columns, batch = _columned(batch), named

      def loss():
        from rlx.learn.forward import forward
        heads, extra = objective.wants(one)
        m = real[learner.model]
        out = forward(m.policy, m.params, columns, heads=heads, extra=extra, actions=phase.buckets[-1].actions)
        weight = objective.weights(one, hypers, columns, credits)
        _, stats = objective.prepare(one, hypers, carry, out, columns, credits, key)
        return objective.total(one, hypers, out, columns, credits, weight, stats)[0]
      _said(f"{at} (losses {', '.join(b.name for b, _ in track.loss)})", loss)
  return ()


def _chain(track):
  return ' -> '.join(b.name for b in (*track.estimator, *track.selector))


def _said(where, fn):
  """Runs a piece of the trace; whatever goes wrong becomes one sentence that begins with where."""
  try:
    return fn()
  except ConfigError as e:
    raise ConfigError(f'{where} {e}' if str(e).startswith('reads') else f'{where}: {e}') from e
  except Exception as e:   # a method is foreign code
    text = str(e).strip('\'"').split('\n')[0]
    raise ConfigError(f'{where} cannot be traced: {type(e).__name__}: {text}') from e


def abstract_batch(b: Bucket, columns: dict) -> Batch:
  """The shapes of a batch with these columns."""
  f, i, t = jnp.float32, jnp.int32, (b.rows, b.width)
  table = lambda name, shape, dtype: _column(name, {k: SHAPE(shape, dtype) for k in columns.get(name, ())})
  n = (b.nodes,)
  nodes = Nodes(parent=SHAPE(n, i), group=SHAPE(n, i), valid=SHAPE(n, bool), end=SHAPE(n, i), reward=table('reward', n, f),
                judged={k: SHAPE(n, bool) for k in columns.get('judged', ())}, label=table('label', n, i), value=table('value', n, f))
  tokens = Tokens(ids=SHAPE(t, i), node=SHAPE(t, i), segment=SHAPE(t, i), position=SHAPE(t, i), sampled=SHAPE(t, bool),
                  mask=SHAPE(t, bool), logp=SHAPE(t, f), role=table('role', t, bool), stream=table('stream', t, f))
  return Batch(nodes=nodes, tokens=tokens, prompt=table('prompt', (b.prompts,), f))


def _line(phase, policies, params, bucket):
  parts = []
  for learner in phase.learners:
    every = params[learner.model]
    own = trained(policies[learner.model], every)
    count, of = (sum(x.size for x in jax.tree.leaves(p)) for p in (own, every))
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((every, own, own, own)))
    what = f'{of:,} parameters' if count == of else f'{count:,} of {of:,} parameters'
    parts.append(f"{learner.name} trains '{learner.model}' ({what}, {size / 2**20:.1f} MiB with gradients and moments)")
  c = phase.config
  width = lambda k, d: getattr(policies['policy'].config, k, None) or d
  heads = width('kv_heads', width('heads', 4))
  cache = 2 * 4 * c.sampler.slots * c.sampler.width * width('layers', 2) * heads * width('head_dim', width('dim', 128) // width('heads', 4))
  return (f"phase '{phase.name}': {phase.steps} steps of {phase.prompts} prompts from {phase.source.name}; {'; '.join(parts)}; "
          f'batch {bucket.rows} x {bucket.width} tokens; cache {cache / 2**20:.1f} MiB')
