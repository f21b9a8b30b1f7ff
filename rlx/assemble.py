"""A config to the parts of a run. Below this file functions receive values, never the config."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import traverse_util
import jax
import ml_collections
import optax

from rlx import config, fetch
from rlx.config import ConfigError
from rlx.grow import demonstrations, engine, rollout
from rlx.grow import tokenizer as tokenizers
from rlx.learn import mesh as meshes
from rlx.learn import objective
from rlx.learn.pack import Bucket
from rlx.models import pretrained as files
from rlx.models.heads import value_head
from rlx.types import Model

HEADS = ('fused', 'xla', 'reference')
TEXTS = 2000   # expert episodes a tokenizer is made from
FIXED = ('seed', 'workdir', 'cache', 'env', 'tokenizer', 'models', 'heads', 'mesh', 'sharding', 'sampler', 'phases', 'init_from', 'summary',
         'episodes')   # made once a run: no phase may change them


class Learner(NamedTuple):
  """What trains one model."""
  name: str
  model: str
  tracks: Mapping[str, objective.Track]
  tx: optax.GradientTransformation
  epochs: int
  minibatch: int
  microbatch: int | None
  unit: str
  every: int
  when: str            # 'before' | 'after' the policy's


class World(NamedTuple):
  """What all phases share."""
  env: Any
  tokenizer: Any
  models: dict[str, Model]
  mesh: jax.sharding.Mesh


class Phase(NamedTuple):
  """One phase, ready to run."""
  name: str
  steps: int
  prompts: int
  source: config.Bound
  curriculum: Any
  plan: rollout.Plan
  rows: Callable
  segment: Callable | None
  labels: dict[str, Callable]
  buckets: tuple[Bucket, ...]
  transforms: tuple
  learners: tuple[Learner, ...]
  config: ml_collections.ConfigDict


# ---- configs of phases -------------------------------------------------------------------------------------------------

def phases(c: ml_collections.ConfigDict) -> list[ml_collections.ConfigDict]:
  """The config of each phase: the run's, with the keys the phase changes."""
  out = []
  for i, phase in enumerate(c.phases):
    phase = dict(phase)
    if not {'name', 'steps', 'source'} <= set(phase):
      raise ConfigError(f'phase {i} needs a name, steps and a source; it has {sorted(phase)}.')
    if fixed := sorted(k for k in phase if k.split('.')[0] in FIXED):
      raise ConfigError(f"phase '{phase['name']}' changes {fixed[0]}, which is the whole run's: set c.{fixed[0]} instead.")
    one = ml_collections.ConfigDict(c.to_dict(), type_safe=False)
    with one.unlocked():
      one.phase = {k: phase.pop(k) for k in ('name', 'steps', 'source')}
    config.override(one, phase)
    if one.phase.steps != 0:      # a phase without steps is none: everything that counts phases agrees on that
      out.append(one)
  if not out:
    raise ConfigError('no phase has a step: set steps of an entry of c.phases.')
  return out


def fingerprint(c: ml_collections.ConfigDict) -> dict:
  """What must not change when a run is continued."""
  free = ('workdir', 'cache', 'episodes', 'checkpoint', 'summary', 'smoke')
  return _moved({k: v for k, v in config.plain(c).items() if k not in free})


def _moved(value):
  """A plain config without the folders of config files that functions come from: a checkout may be moved."""
  if isinstance(value, dict):
    return {k: _moved(v) for k, v in value.items()}
  if isinstance(value, list):
    return [_moved(v) for v in value]
  own = isinstance(value, str) and value.startswith(config.FUNCTION)
  return config.FUNCTION + os.path.basename(value.removeprefix(config.FUNCTION)) if own else value


def digest(value: Any) -> str:
  """A short name of a plain value."""
  return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def made(kind: str, spec: Any, **runtime) -> Any:
  """Builds and calls a factory; what it says of its arguments becomes a `ConfigError`."""
  bound = config.build(kind, spec)
  try:
    return bound.call(**runtime)
  except ConfigError:
    raise
  except (ValueError, TypeError, KeyError, OSError) as e:
    raise ConfigError(f"{kind} '{bound.name}': {e}") from e


# ---- the world ---------------------------------------------------------------------------------------------------------

def environment(c: ml_collections.ConfigDict) -> Any:
  """The environment."""
  if c.env is None:
    raise ConfigError("the config has no env: set c.env, for example dict(name='sql').")
  return made('env', c.env, seed=c.seed)


def tokenizer(c: ml_collections.ConfigDict, env: Any, folder: str = '') -> Any:
  """The tokenizer: that of the folder where one was saved, otherwise the pretrained policy's own, or as the spec says."""
  spec = pretrained_tokenizer(c)
  if spec is None:
    spec = c.tokenizer
  elif (given := c.tokenizer.get('name') if hasattr(c.tokenizer, 'get') else c.tokenizer) not in (None, 'pretrained'):
    print(f"the policy '{spec['path']}' brings its own tokenizer; c.tokenizer '{given}' is not used", flush=True)
  if spec is None:
    raise ConfigError("the config has no tokenizer: set c.tokenizer, for example dict(name='bpe', size=512).")
  saved = os.path.join(folder, 'tokenizer.json') if folder else ''
  if saved and os.path.isfile(saved):
    chat = os.path.isfile(os.path.join(folder, 'tokenizer_config.json'))
    return tokenizers.pretrained(path=folder) if chat else tokenizers.file(path=saved)
  tok = made('tokenizer', spec, texts=_texts(env, c.seed))
  if saved:
    tok.save(saved)
  return tok


def pretrained_tokenizer(c: ml_collections.ConfigDict) -> dict[str, Any] | None:
  """The spec of a pretrained policy's tokenizer, with c.tokenizer's keywords where that is one too; None for other policies."""
  policy = policy_spec(c.models.get('policy'))
  if not hasattr(policy, 'keys') or policy.get('name') != 'pretrained':
    return None
  given = dict(c.tokenizer) if hasattr(c.tokenizer, 'keys') else {}
  return {**(given if given.get('name') == 'pretrained' else {}), 'name': 'pretrained', 'path': policy['path']}


def _texts(env, seed):
  """What the environment's expert says and hears; without an expert, its prompts."""
  tasks = env.tasks('train')
  for i in range(min(TEXTS, len(tasks))):
    if hasattr(env, 'expert'):
      said, _ = demonstrations.transcript(env, tasks[i], seed + i)
      yield ' '.join(part for turn in said for part in turn)
    else:
      yield env.reset(tasks[i], seed + i)[1].text


def models(c: ml_collections.ConfigDict, tok: Any, mesh: jax.sharding.Mesh, heads: Mapping[str, tuple]) -> dict[str, Model]:
  """Every model of the config, with pretrained or fresh parameters on the mesh; `heads`: model -> the heads it must have.

  A copy shares the arrays of its original until a phase takes it.
  """
  out = {}
  for name, spec in sorted(c.models.items()):
    policy = policies(c, name, spec, tok.size)
    if copies(spec):
      continue
    _same_tokens(c, name, spec)
    key = jax.random.fold_in(jax.random.key(c.seed), zlib.crc32(name.encode()) & 0x7fffffff)
    init = lambda key, policy=policy, wanted=heads.get(name, ()): with_heads(policy.init(key), policy, wanted, key)
    shardings = meshes.shard_params(jax.eval_shape(init, key), tuple(map(tuple, c.sharding)), mesh)
    out[name] = Model(policy, _parameters(policy, init, key, shardings), tok)
  return {name: out[spec['copy'] if copies(spec) else name] for name, spec in sorted(c.models.items())}


def _same_tokens(c, name, spec):
  """A pretrained model beside the policy reads the policy's ids, so they must mean the same to it."""
  path = lambda spec: spec.get('path') if hasattr(spec, 'keys') and spec.get('name') == 'pretrained' else None
  theirs, ours = path(policy_spec(spec)), path(pretrained_tokenizer(c) or c.tokenizer)
  if theirs is None or theirs == ours:
    return
  if ours is None or files.vocabulary(theirs) != files.vocabulary(ours):
    raise ConfigError(f"model '{name}' ('{theirs}') has another tokenizer than the policy: take a model of the policy's family.")


def _parameters(policy, init, key, shardings):
  """What the policy can load, and the rest (heads, say) as `init` draws it; nothing else of `init` is computed."""
  if policy.load is None:
    return jax.jit(init, out_shardings=shardings)(key)
  loaded = traverse_util.flatten_dict(policy.load(shardings))
  places = {k: v for k, v in traverse_util.flatten_dict(shardings).items() if k not in loaded}
  drawn = jax.jit(lambda key: {k: v for k, v in traverse_util.flatten_dict(init(key)).items() if k in places}, out_shardings=places)
  return traverse_util.unflatten_dict(loaded | (drawn(key) if places else {}))


def copies(spec: Any) -> bool:
  """Whether a model is a frozen copy of another one, taken as a phase begins: `dict(copy='policy')`."""
  return hasattr(spec, 'keys') and set(spec.keys()) == {'copy'}


def policy_spec(spec: Any) -> Any:
  """A model's spec; the name of a model that `rlx.fetch` knows stands for dict(name='pretrained', path=<the name>)."""
  given = dict(spec) if hasattr(spec, 'keys') else dict(name=spec)
  name = given.get('name')
  return {**given, 'name': 'pretrained', 'path': name} if isinstance(name, str) and name in fetch.MODELS else spec


def policies(c, name, spec, size):
  """The functions of one model; its vocabulary must be the tokenizer's, that of a pretrained one may be larger."""
  if copies(spec):
    if spec['copy'] not in c.models or copies(c.models[spec['copy']]):
      raise ConfigError(f"model '{name}' is a copy of '{spec['copy']}', which is no model of its own; there are {sorted(c.models)}.")
    spec = c.models[spec['copy']]
  if spec is None:
    raise ConfigError(f"the config has no model '{name}': set c.models.{name}, for example dict(name='transformer', layers=2, dim=128).")
  spec = policy_spec(spec)
  bound = config.build('policy', spec)
  given = bound.static.get('vocab')
  if given is not None and given != size:
    raise ConfigError(f"model '{name}' has a vocabulary of {given}, the tokenizer one of {size}: leave `vocab` out or make them equal.")
  policy = made('policy', spec, vocab=size)
  return policy._replace(heads={**policy.heads, **{n: made('head', s) for n, s in c.heads.items()}})


def with_heads(params: Any, policy: Any, heads: tuple, key: jax.Array) -> Any:
  """Parameters with those of a head for each name."""
  if not heads:
    return params
  hidden = jax.numpy.zeros((1, policy.config.dim), jax.numpy.float32)
  values = {h: policy.heads.get(h, value_head()).init(jax.random.fold_in(key, zlib.crc32(h.encode()) & 0x7fffffff), hidden) for h in heads}
  return {**params, 'heads': values}


# ---- phases ------------------------------------------------------------------------------------------------------------

def tracks(specs: Mapping) -> dict[str, objective.Track]:
  """Tracks from their specs."""
  out = {}
  for name, spec in specs.items():
    spec = dict(spec)
    unknown = set(spec) - {'estimator', 'selector', 'average', 'loss', 'coef'}
    if unknown or 'loss' not in spec or 'estimator' not in spec:
      raise ConfigError(f"track '{name}' has {sorted(spec)}; a track has estimator and loss, and may have selector, average and coef.")
    estimators = config.chain('estimator', spec['estimator'])
    for i, b in enumerate(estimators):
      if (len(b.places) > 1) != (i > 0) and b.places:
        raise ConfigError(f"track '{name}': '{b.name}' {'is a modulator and needs an estimator before it' if not i else 'is an estimator and must come first'}.")
    out[name] = objective.Track(
        estimator=estimators, selector=config.chain('selector', spec.get('selector', ())),
        average=config.build('average', spec.get('average', 'token_mean')),
        loss=tuple(_loss(s) for s in _tuple(spec['loss'])), coef=_coef(spec.get('coef', 1.)))
  if not out:
    raise ConfigError('there is no track: set c.tracks.')
  return out


def _tuple(specs):
  return specs if isinstance(specs, list | tuple) else (specs,)


def _loss(spec):
  coef = 1.
  if isinstance(spec, Mapping | ml_collections.ConfigDict) and 'coef' in spec:
    spec = dict(spec)
    coef = spec.pop('coef')
  return config.build('loss', spec), _coef(coef)


def _coef(value):
  return config.schedule(value) if isinstance(value, Mapping | ml_collections.ConfigDict) else float(value)


def optimizer(spec: Any) -> optax.GradientTransformation:
  """An optimizer; its learning rate may be a schedule of the number of updates."""
  bound = config.build('tx', spec)
  static = {k: config.schedule(v) if isinstance(v, Mapping) and 'schedule' in v else v for k, v in bound.static.items()}
  return bound.fn(**{**static, **bound.traced})


def learners(c: ml_collections.ConfigDict) -> tuple[Learner, ...]:
  """The learners in the order they run."""
  own = dict(model='policy', tracks=c.tracks, tx=c.tx, epochs=c.epochs, minibatch=c.minibatch, microbatch=c.microbatch,
             unit=c.unit, every=1)
  out = [_learner('policy', own, c, 'policy')]
  for name, spec in sorted(c.learners.items()):
    spec = dict(spec)
    unknown = set(spec) - set(own) - {'when'}
    if unknown or not {'model', 'tracks'} <= set(spec):
      raise ConfigError(f"learner '{name}' has {sorted(spec)}; it needs model and tracks, and may have {sorted(set(own) - {'model', 'tracks'})} and when.")
    when = spec.pop('when', 'after')
    one = _learner(name, {**own, **spec}, c, when)
    if any(one.model == other.model for other in out):
      raise ConfigError(f"learner '{name}' trains the model '{one.model}', which another learner trains already: put its tracks there.")
    out.insert(0, one) if when == 'before' else out.append(one)
  return tuple(out)


def _learner(name, spec, c, when):
  if spec['model'] not in c.models:
    raise ConfigError(f"learner '{name}' trains the model '{spec['model']}'; there are {sorted(c.models)}.")
  for key in ('epochs', 'minibatch', 'every'):
    if not isinstance(spec[key], int) or spec[key] < 1:
      raise ConfigError(f"{key} must be a whole number of at least 1, not {spec[key]!r}.")
  if spec['microbatch'] is not None and (not isinstance(spec['microbatch'], int) or spec['minibatch'] % spec['microbatch']):
    raise ConfigError(f"microbatch {spec['microbatch']!r} does not divide minibatch {spec['minibatch']}.")
  if spec['unit'] not in ('row', 'path', 'group'):
    raise ConfigError(f"unit is 'row', 'path' or 'group', not {spec['unit']!r}.")
  return Learner(name, spec['model'], tracks(spec['tracks']), optimizer(spec['tx']), spec['epochs'], spec['minibatch'],
                 spec['microbatch'], spec['unit'], spec['every'], when)


def heads(c: ml_collections.ConfigDict) -> dict[str, tuple]:
  """model -> the value heads that losses and `score` transforms of any phase want of it."""
  out: dict[str, dict] = {}
  for one in phases(c):
    for learner in learners(one):
      out.setdefault(learner.model, {}).update(dict.fromkeys(objective.wants(learner.tracks)[0]))
    for t in config.chain('transform', one.transforms):
      if t.static.get('head'):
        out.setdefault(t.static.get('model', 'policy'), {})[t.static['head']] = None
  return {k: tuple(sorted(v)) for k, v in out.items()}


def phase(c: ml_collections.ConfigDict, env: Any) -> Phase:
  """The parts of one phase, from its config."""
  made_buckets = []
  for b in c.buckets:
    try:
      made_buckets.append(Bucket(**b))
    except TypeError as e:
      raise ConfigError(f'a bucket has rows, width, nodes, prompts and may have actions; it is {dict(b)!r}.') from e
  if not 1 <= len(made_buckets) <= 4:
    raise ConfigError(f'there must be 1 to 4 buckets, not {len(made_buckets)}: each is compiled.')
  if not isinstance(c.phase.steps, int) or c.phase.steps < 0:
    raise ConfigError(f"phase '{c.phase.name}': steps must be a whole number, not {c.phase.steps!r}.")
  if c.sampler.on_full not in ('end', 'window', 'error'):
    raise ConfigError(f"sampler.on_full is 'end', 'window' or 'error', not {c.sampler.on_full!r}.")
  for name, least in (('slots', 1), ('lanes', 1), ('chunk', 1), ('turn', 1), ('segment', 0)):
    if not isinstance(c.sampler[name], int) or c.sampler[name] < least:
      raise ConfigError(f'sampler.{name} must be a number of at least {least}, it is {c.sampler[name]!r}.')
  if c.sampler.slots % c.sampler.lanes:
    raise ConfigError(f'{c.sampler.lanes} sampler.lanes do not divide {c.sampler.slots} sampler.slots.')
  if c.sampler.turn >= c.sampler.width:
    raise ConfigError(f'sampler.turn {c.sampler.turn} leaves no room for a prompt in sampler.width {c.sampler.width}.')
  if not c.sampling.temperature >= 0:
    raise ConfigError(f'sampling.temperature must not be negative, it is {c.sampling.temperature}.')
  trained = learners(c)
  if c.head not in (None, *HEADS):
    raise ConfigError(f"head is None, {', '.join(map(repr, HEADS[:-1]))} or {HEADS[-1]!r}, not {c.head!r}.")
  if c.head == 'fused' and (unfit := [l.name for l in trained if not objective.fusible(l.tracks)]):
    raise ConfigError(f"head='fused' needs losses that are local and read no value head, which those of learner '{unfit[0]}' are not: "
                      'set head=None, which takes what each learner allows.')
  call = lambda kind, specs: tuple(_bound(b) for b in config.chain(kind, specs))
  context, = call('context', c.context)
  segment, = call('segment', c.segment) if c.segment else (None,)
  rows, = call('rows', c.rows)
  plan = rollout.Plan(
      env=env, explorer=made('explorer', c.explorer), context=context, rewards=call('reward', c.rewards),
      probes=call('probe', c.probes), scorers={k: call('scorer', v)[0] for k, v in c.scorers.items()},
      sampling={k: v for k, v in c.sampling.items()}, streams=explorer_streams(c), max_steps=c.sampler.max_steps, workers=c.sampler.workers)
  return Phase(
      name=c.phase.name, steps=c.phase.steps, prompts=c.on_policy_prompts, source=config.build('source', c.phase.source),
      curriculum=made('curriculum', c.curriculum, env=env, seed=c.seed), plan=plan, rows=rows, segment=segment,
      labels={k: call('label', v)[0] for k, v in c.labels.items()}, buckets=tuple(sorted(made_buckets, key=lambda b: b.rows * b.width)),
      transforms=config.chain('transform', c.transforms), learners=trained, config=c)


def _bound(b):
  """A host-side method as one callable; marks such as `grain` stay on it, and a memory stands in `call.state`."""
  judge = b.static.get('judge')
  if judge is not None and not callable(judge):
    judge = made('judge', judge)
    b = b._replace(static={**b.static, 'judge': judge})
  if b.places:
    keywords = {**b.static, **{k: float(v) for k, v in b.floats().items()}}   # once: it is called for every path
    def call(*args):
      return b.fn(*args, **keywords)
  else:
    stateful = b.call()
    def call(*args):
      call.state, verdict = stateful.update(call.state, *args)
      return verdict
    call.state = stateful.init()
  for mark in ('grain', 'reads_text'):
    if hasattr(b.fn, mark):
      setattr(call, mark, getattr(b.fn, mark))
  if judge is not None:
    call.judge = judge
  call.__name__ = b.name
  call.writes = written(b)
  return call


def memory(rewards: tuple) -> list:
  """The memories of the rewards that have one: JSON-able values, kept in every checkpoint."""
  return [getattr(f, 'state', None) for f in rewards]


def remember(rewards: tuple, kept: list) -> None:
  """Gives rewards the memories of a checkpoint."""
  for f, state in zip(rewards, kept, strict=False):
    if hasattr(f, 'state'):
      f.state = state


def written(b: config.Bound) -> tuple[str, ...]:
  """The columns a bound method writes, as 'reward/task', 'label/state' ..."""
  return tuple(b.writes)


def limits(c: ml_collections.ConfigDict) -> engine.Limits:
  """Sizes of the sampler."""
  s = c.sampler
  return engine.Limits(slots=s.slots, width=s.width, turn=s.turn, chunk=s.chunk, buckets=tuple(s.buckets), copy_from=s.copy_from,
                       on_full=s.on_full, segment=s.segment, lanes=s.lanes)


def stop(c: ml_collections.ConfigDict, tok: Any) -> engine.Stop:
  """Special tokens among the stops become ids, everything else is looked for in the text; what ends a pretrained model's turn stops too."""
  given = tuple(c.sampler.stop)
  ids = dict.fromkeys((*(tok.special[s] for s in given if s in tok.special), *tok.ends))
  return engine.Stop(tuple(ids), tuple(s for s in given if s not in tok.special))


def explorer_streams(c: ml_collections.ConfigDict) -> tuple[str, ...]:
  """The per-token numbers an explorer says it writes, such as the temperature of its branches."""
  return tuple(w.partition('/')[2] for w in config.build('explorer', c.explorer).writes if w.startswith('stream/'))


def columns(p: Phase) -> dict[str, tuple[str, ...]]:
  """Every column that anything of this phase writes, by table."""
  out: dict[str, dict] = dict(reward={'task': None}, label={'source': None}, role={}, stream={'entropy': None}, value={}, prompt={}, judged={})
  if engine.truncates(p.plan.sampling):
    out['stream']['sampler_logp'] = None
  out['stream'].update(dict.fromkeys(explorer_streams(p.config)))
  every = [getattr(p.plan.env, 'writes', ())] + [getattr(f, 'writes', ()) for f in (*p.plan.rewards, *p.plan.probes, p.segment) if f]
  for f in p.plan.rewards:
    if not f.writes:
      every.append(('reward/task',))
  for writes in every:
    for w in writes:
      table, _, name = w.partition('/')
      out.setdefault(table, {})[name] = None
  out['label'].update(dict.fromkeys(p.labels))
  return {k: tuple(v) for k, v in out.items()}


def engines(c: ml_collections.ConfigDict, models: Mapping[str, Model]) -> dict[str, engine.Engine]:
  """The slots of every model."""
  return {n: engine.create(m, limits(c), stop(c, m.tokenizer)) for n, m in models.items()}
