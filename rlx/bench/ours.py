"""rlx's side of a comparison: the functions the trainer calls, on the work of the job."""

import dataclasses
import json
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from rlx import assemble, compilation
from rlx.bench import serve
from rlx.contexts.append import append
from rlx.envs.jsonl import jsonl
from rlx.explorers.flat import flat
from rlx.grow import engine as engines
from rlx.grow import forest, labels, rollout, tokenizer
from rlx.learn import mesh as meshes
from rlx.learn import objective, optimizers, pack, rows, state
from rlx.learn import step as steps
from rlx.learn.forward import forward
from rlx.models.pretrained import pretrained
from rlx.types import Group, Model, Node, Task

TRACKS = dict(main=dict(estimator=('grpo',), loss=(dict(name='ppo_clip'),)))


def build(job: dict) -> tuple:
  """The side of `serve`."""
  compilation.keep_memory()
  compilation.cache()
  model = load(job['model'], job['dtype'], remat=job.get('remat', 'none'))
  made = dict(sample=sample, score=score, update=update, step=step)[job['work']]
  loop, logp = made(model, job)
  device = jax.devices()[0]
  sampled, updated = ('sample', 'step'), ('update', 'step')
  notes = [text.format(job[k]) for k, usual, text, works in (
      ('lanes', 1, '{} lanes', sampled), ('microbatch', None, '{} rows a microbatch', ('score', *updated)), ('remat', 'none', 'remat {}', updated))
           if job['work'] in works and job.get(k, usual) != usual]
  return loop, dict(versions=dict(jax=jax.__version__), device=device.device_kind, note=', '.join(notes), warm=2), logp, serve.jax_mb(jax)


def load(path: str, dtype: str, remat: str = 'none') -> Model:
  """The model of a directory, on the first device, as the trainer loads it."""
  policy = pretrained(path=path, dtype=dtype, remat=remat)
  mesh = meshes.create(devices=jax.devices()[:1])
  params = policy.load(meshes.shard_params(jax.eval_shape(policy.init, jax.random.key(0)), (), mesh))
  return Model(policy, params, tokenizer.file(path=os.path.join(path, 'tokenizer.json')))


# ---- the four works ----------------------------------------------------------------------------------------------------

def sample(model: Model, job: dict) -> tuple:
  """32 requests to the engine, which has forgotten what it read: 4 distinct prompts, 64 new ids each."""
  engine, count = engines.create(model, limits(job), engines.Stop()), [0]

  def run():
    count[0] += 1
    engines.refresh(engine, model.params)
    codes = [(p, s, 0) for p in range(len(job['prompts'])) for s in range(job['samples'])]
    keys = engines.keys(jax.random.key(count[0]), codes, len(codes))
    speech = engines.speak(engine, [engines.Request(job['prompts'][p], -1, k, {}, job['new']) for (p, _, _), k in zip(codes, keys)])
    if any(len(s.ids) != job['new'] for s in speech):
      raise RuntimeError('a sample is shorter than it should be')
  return serve.repeated(run), None


def score(model: Model, job: dict) -> tuple:
  """Log-probability and entropy of the completions, each given its whole row."""
  tokens = packed(job).batch.tokens
  run = jax.jit(lambda params, tokens: forward(model.policy, params, tokens, actions=job['new'], microbatch=job['microbatch']))
  tokens = jax.device_put(tokens)

  def logp():
    out = run(model.params, tokens)
    rows = order(np.asarray(tokens.ids), job)
    return tuple(np.asarray(x)[rows, -job['new']:].tolist() for x in (out.logp, out.entropy))
  return serve.repeated(lambda: jax.block_until_ready(run(model.params, tokens))), logp


def update(model: Model, job: dict) -> tuple:
  """One optimizer step of GRPO on the completions with the given advantages; the old policy is the one at the start."""
  batch = packed(job).batch
  tracks, tx = assemble.tracks(TRACKS), optimizers.adamw(learning_rate=1e-6)
  out = jax.jit(lambda params, tokens: forward(model.policy, params, tokens, actions=job['new']))(model.params, batch.tokens)
  batch = dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, logp=np.asarray(out.logp)))
  adv = np.zeros(len(batch.tokens.ids), np.float32)
  adv[order(batch.tokens.ids, job)] = job['advantages']
  mask = jnp.asarray(batch.tokens.mask)
  credits = dict(main=objective.Credit(adv=jnp.where(mask, adv[:, None], 0.), keep=mask))
  fn = state.update(tracks, model.policy, tx, temperature=1., microbatch=job['microbatch'], actions=job['new'],
                    where=state.shardings(model.params, tx, tracks))
  now, batch = [state.create(model.params, tx, tracks)], jax.device_put(batch)
  hypers, at, key = objective.floats(tracks, 0), np.arange(len(adv), dtype=np.int32), jax.random.key(0)

  def run():
    now[0], seen = fn(now[0], batch, credits, at, hypers, key)
    jax.block_until_ready((now[0], seen))
  return serve.repeated(run), None


def step(model: Model, job: dict) -> tuple:
  """One step of the training loop: prompts from a file, 8 rollouts each, reward, pack, credit, update."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, 'prompts.jsonl')
    with open(path, 'w', encoding='utf-8') as f:
      f.writelines(json.dumps(dict(prompt=text)) + '\n' for text in job['texts'])
    env = jsonl(path=path, reward=lambda prompt, said, row: serve.pay(said), held_out=0., answer=None)
    tasks = env.tasks('train')
  plan = rollout.Plan(env=env, explorer=flat(width=job['samples']), context=append)
  tracks, tx = assemble.tracks(TRACKS), optimizers.adamw(learning_rate=1e-6)
  learner = assemble.Learner('policy', 'policy', tracks, tx, 1, len(job['completions']), job['microbatch'], 'row', 1, 'policy')
  mesh = meshes.create(devices=jax.devices()[:1])
  fns = steps.make((learner,), (), dict(policy=model), mesh, (bucket(job),), temperature=1.)
  pool = dict(policy=engines.create(model, limits(job), engines.Stop()))
  now, key, count = [state.create(model.params, tx, tracks)], jax.random.key(job['seed']), [0]

  def run():
    count[0] += 1
    params = dict(policy=now[0].params)
    engines.refresh(pool['policy'], params['policy'])
    grown = rollout.rollout(pool, tasks, plan=plan, key=jax.random.fold_in(key, count[0]), first=count[0] * len(tasks))
    groups = [forest.cut(g) for g in sorted(grown, key=lambda g: g.index)]
    part, = pack.pack(groups, rows=rows.paths, buckets=(bucket(job),), channels=('task',), intern=labels.intern)
    now[0], results, _ = steps.learn(fns, learner, now[0], params, steps.put(part.batch, mesh), part, step=count[0], key=key)
    if steps.averaged(jax.device_get(results))['updates'] != 1:
      raise RuntimeError('a step should be one update')
    jax.block_until_ready(now[0])
  return serve.repeated(run), None


# ---- sizes and batches -----------------------------------------------------------------------------------------------

def limits(job: dict) -> engines.Limits:
  """The slots a user of this work would ask for."""
  prompt, new = len(job['prompts'][0]), job['new']
  return engines.Limits(slots=len(job['completions']), width=prompt + new, turn=new, chunk=min(prompt, 64), lanes=job.get('lanes', 1))


def bucket(job: dict) -> pack.Bucket:
  """The one shape: a row a completion."""
  n = len(job['completions'])
  return pack.Bucket(rows=n, width=len(job['prompts'][0]) + job['new'], nodes=n, prompts=len(job['prompts']), actions=job['new'])


def packed(job: dict) -> pack.Packed:
  """The completions as finished episodes, packed."""
  groups, none = [], np.zeros(job['new'], np.float32)
  for i, prompt in enumerate(job['prompts']):
    mine = job['completions'][i * job['samples']:(i + 1) * job['samples']]
    nodes = [Node(-1, job['texts'][i], prompt, True, '', ids, none == 0, none, {}, end=1) for ids in mine]
    groups.append(Group(Task(str(i)), nodes, index=i))
  part, = pack.pack(groups, rows=rows.paths, buckets=(bucket(job),))
  return part


def order(ids: np.ndarray, job: dict) -> list[int]:
  """The row in which each completion stands."""
  at = {tuple(row): i for i, row in enumerate(ids[:, -job['new']:].tolist())}
  return [at[tuple(c)] for c in job['completions']]


if __name__ == '__main__':
  serve.serve(build)
