"""A run from names: `build(kind, spec)`, schedules, overrides.

A spec is a callable, a name, a dotted name, or a dict of `name` and keywords. A name is looked up where its kind lives (`KINDS`), a
dotted name is imported as it stands. Keywords are bound at once, so an unknown one fails before anything runs.
"""

import ast
import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

# kind -> where it lives: a folder (one file a method) or one module
KINDS = dict(
    env='rlx.envs', context='rlx.contexts', explorer='rlx.explorers', probe='rlx.probes', reward='rlx.rewards', judge='rlx.judges',
    curriculum='rlx.curricula', transform='rlx.transforms', estimator='rlx.estimators', selector='rlx.selectors',
    loss='rlx.losses', policy='rlx.models', head='rlx.models.heads',
    average='rlx.average', rows='rlx.learn.rows', tx='rlx.learn.optimizers', segment='rlx.grow.segment', label='rlx.grow.labels',
    source='rlx.grow.sources', tokenizer='rlx.grow.tokenizer', scorer='rlx.grow.scorers')

FUNCTION, OWN = 'function:', 'rlx_config_'      # a function in a plain config; modules of config files
FILES: dict[str, str] = {}                      # such a module -> its file
# what the loop supplies to a function that names it as a keyword-only parameter
RUNTIME = frozenset(('models', 'step', 'key', 'adv', 'env', 'tokenizer', 'grow', 'draw', 'start', 'seed',
                     'context', 'vocab', 'texts', 'actions'))


class ConfigError(ValueError):
  """A config that cannot work: one plain sentence that says what to do."""


class Bound(NamedTuple):
  """A function and its keywords: static ones as they are, floats and schedules to be traced."""
  name: str
  fn: Callable
  static: Mapping[str, Any]
  traced: Mapping[str, Any]     # keyword -> float or schedule (a function of the step)
  takes: frozenset              # runtime keywords the function asks for
  writes: tuple
  places: tuple                 # names of its positional parameters; without any it is a factory

  def floats(self, step: int = 0) -> dict[str, np.float32]:
    """The traced keywords at a step; pass them into the jitted function and back to `call`."""
    with jax.ensure_compile_time_eval():   # `check` asks while it traces
      return {k: np.float32(v(step) if callable(v) else v) for k, v in self.traced.items()}

  def call(self, *args, floats: Mapping[str, Any] | None = None, **runtime):
    """Calls the function with its keywords; of `runtime` only what it takes."""
    floats = {k: float(v) for k, v in self.floats().items()} if floats is None else floats
    return self.fn(*args, **self.static, **floats, **{k: v for k, v in runtime.items() if k in self.takes})


def schedule(spec: Mapping[str, Any]) -> Callable:
  """`dict(schedule='linear' | 'cosine' | 'warmup_cosine' | 'constant', ...)` -> a function of the step, host or traced.

  linear, cosine: `start`, `end`, `steps`; warmup_cosine: `peak`, `warmup`, `steps`, `end`; constant: `value`. The step is the
  run's, over all phases, for methods, and the number of the phase's updates for optimizers.
  """
  spec = dict(spec)
  kind = spec.pop('schedule')
  wanted = dict(linear={'start', 'end', 'steps'}, cosine={'start', 'end', 'steps'}, constant={'value'},
                warmup_cosine={'peak', 'warmup', 'steps', 'end'}).get(kind)
  if wanted is None:
    raise ConfigError(f"schedule '{kind}' does not exist; there are constant, cosine, linear and warmup_cosine.")
  if set(spec) != wanted:
    raise ConfigError(f"schedule '{kind}' takes {_listed(wanted)}, not {_listed(spec)}.")
  ramp = lambda t, n: jnp.clip(jnp.asarray(t, jnp.float32) / max(n, 1), 0., 1.)
  fall = lambda t: .5 * (1 + jnp.cos(jnp.pi * t))
  if kind == 'constant':
    return lambda t: jnp.full((), spec['value'], jnp.float32)
  if kind == 'linear':
    return lambda t: spec['start'] + (spec['end'] - spec['start']) * ramp(t, spec['steps'])
  if kind == 'cosine':
    return lambda t: spec['end'] + (spec['start'] - spec['end']) * fall(ramp(t, spec['steps']))
  up, down = spec['warmup'], spec['steps'] - spec['warmup']
  return lambda t: jnp.where(jnp.asarray(t) < up, spec['peak'] * ramp(t, up),
                             spec['end'] + (spec['peak'] - spec['end']) * fall(ramp(jnp.asarray(t) - up, down)))


def build(kind: str, spec: Any) -> Bound:
  """A spec to a bound function.

  Args:
    kind: a key of `KINDS`.
    spec: a callable, `'grpo'`, `'my_lab.mod.fn'`, or `dict(name=..., **keywords)`.

  Raises:
    ConfigError: no such name, or an unknown keyword; the message lists what exists.
  """
  if isinstance(spec, ml_collections.ConfigDict):
    spec = spec.to_dict()
  keywords = {}
  if isinstance(spec, Mapping):
    keywords = dict(spec)
    if 'name' not in keywords:
      raise ConfigError(f"a {kind} is a name or a dict with a 'name', not {dict(spec)!r}.")
    spec = keywords.pop('name')
  fn = spec if callable(spec) else resolve(kind, spec)
  name = spec if isinstance(spec, str) else getattr(fn, '__name__', type(fn).__name__)
  parameters = inspect.signature(fn).parameters
  open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  known = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
  for k in keywords:
    if k not in known and not open_ended:
      near = difflib.get_close_matches(k, known, 1)
      hint = f" Did you mean '{near[0]}'?" if near else ''
      raise ConfigError(f"{kind} '{name}' has no keyword '{k}'; it takes {_listed(k for k in known if k not in RUNTIME)}.{hint}")
  static, traced = {}, {}
  for k, v in keywords.items():
    if isinstance(v, Mapping) and 'schedule' in v:
      traced[k] = schedule(v)
    elif isinstance(v, float) and kind in ('estimator', 'selector', 'transform', 'loss', 'average'):
      traced[k] = v
    else:
      static[k] = v
  missing = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY and p.default is p.empty
             and p.name not in keywords and p.name not in RUNTIME]
  if missing:
    raise ConfigError(f"{kind} '{name}' needs {_listed(missing)}.")
  takes = frozenset(k for k in known if k in RUNTIME and k not in keywords)
  writes = getattr(fn, 'writes', None) or getattr(sys.modules.get(getattr(fn, '__module__', '')), 'writes', ())
  if callable(writes):      # they depend on its keywords
    writes = writes(**static)
  places = tuple(p.name for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
  return Bound(name, fn, static, traced, takes, tuple(writes), places)


def chain(kind: str, specs: Any) -> tuple[Bound, ...]:
  """A spec or a tuple of them to a tuple of bound functions."""
  return tuple(build(kind, s) for s in (specs if isinstance(specs, list | tuple) else (specs,)))


def resolve(kind: str, name: str) -> Callable:
  """The function called `name`: `rlx.<kind>.<name>.<name>`, or a dotted name as it stands."""
  if kind not in KINDS:
    raise ConfigError(f"there is no kind '{kind}'; there are {_listed(KINDS)}.")
  if not isinstance(name, str):
    raise ConfigError(f"a {kind} is a name, a dotted name, a callable or a dict with a 'name', not {name!r}.")
  where = KINDS[kind]
  if '.' not in name and name not in names(kind):
    near = difflib.get_close_matches(name, names(kind), 1)
    hint = f" Did you mean '{near[0]}'?" if near else ''
    raise ConfigError(f"there is no {kind} '{name}'; there are {_listed(names(kind))}.{hint}")
  path = name if '.' in name else f'{where}.{name}' if _files(where) is None else f'{where}.{name}.{name}'
  module, _, attribute = path.rpartition('.')
  try:
    fn = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as e:
    raise ConfigError(f"{kind} '{name}' cannot be imported: {e}.") from e
  if not callable(fn):
    raise ConfigError(f"{kind} '{name}' is {fn!r}, not a function.")
  return fn


def names(kind: str) -> list[str]:
  """The methods of a kind: files of its folder that hold a function of their own name, or public functions of its module.

  Files of a folder are read, not imported: one that needs an extra does not stand in the way of the others.
  """
  where = KINDS[kind]
  if (files := _files(where)) is not None:
    return list(files)
  home = importlib.import_module(where)
  public = getattr(home, '__all__', [k for k in vars(home) if not k.startswith('_')])
  mine = lambda f: callable(f) and not isinstance(f, type) and getattr(f, '__module__', None) == where
  return sorted(k for k in public if mine(getattr(home, k)))


@functools.cache
def _files(where):
  """Files of a folder that hold a function of their own name; None where it is a module."""
  spec = importlib.util.find_spec(where)
  if spec is None or spec.submodule_search_locations is None:
    return None if spec else ()
  found = []
  for m in pkgutil.iter_modules(spec.submodule_search_locations):
    if not m.name.startswith('_'):
      with open(importlib.util.find_spec(f'{where}.{m.name}').origin, encoding='utf-8') as f:
        if re.search(rf'^((async )?def {m.name}\(|{m.name} = )', f.read(), re.MULTILINE):
          found.append(m.name)
  return tuple(sorted(found))


# ---- files and overrides -----------------------------------------------------------------------------------------------

def load(path: str, overrides: Mapping[str, Any] | None = None) -> ml_collections.ConfigDict:
  """Reads `file.py[:variant]` and applies overrides.

  Args:
    path: a file with `get_config()` or `get_config(variant)`; `:smoke` applies the config's own `smoke` overrides on top of `SMOKE`.
    overrides: dotted key -> value, as `tracks.main.estimator[0].ddof`.

  Raises:
    ConfigError: no such file, no `get_config`, a key that does not exist.
  """
  file, _, variant = path.partition(':')
  if not os.path.isfile(file):
    raise ConfigError(f"config file '{file}' does not exist; give --config a path such as configs/quickstart.py.")
  module = _executed(file)
  if not hasattr(module, 'get_config'):
    raise ConfigError(f"config file '{file}' has no function get_config().")
  takes = bool(inspect.signature(module.get_config).parameters)
  if variant and variant != 'smoke' and not takes:
    raise ConfigError(f"config file '{file}' has no variants, so '{variant}' cannot be one; only ':smoke' always exists.")
  try:
    c = module.get_config(variant) if takes and variant not in ('', 'smoke') else module.get_config()
  except (AttributeError, KeyError) as e:
    if not (m := re.match(r'\W*Key "(\w+)" does not exist and cannot be added', str(e))):
      raise
    raise ConfigError(f"config file '{file}' sets the key '{m[1]}', which a config does not have; configs/base.py lists them all.") from e
  if variant == 'smoke':
    smoke(c)
  return override(c, overrides or {})


def _executed(file):
  root = os.path.dirname(os.path.dirname(os.path.abspath(file)))
  for folder in (os.getcwd(), root):
    if folder not in sys.path:
      sys.path.append(folder)
  spec = importlib.util.spec_from_file_location(f'{OWN}{os.path.basename(file)[:-3]}', file)
  module = importlib.util.module_from_spec(spec)
  FILES[module.__name__] = os.path.abspath(file)
  spec.loader.exec_module(module)
  return module


def smoke(c: ml_collections.ConfigDict) -> None:
  """Two steps of every phase, little of everything else."""
  c.phases = tuple({**p, 'steps': 2, **({'eval.every': 0})} for p in c.phases)
  c.eval.prompts = min(c.eval.prompts, 8)
  c.name += '-smoke'
  override(c, dict(c.smoke))


def override(c: ml_collections.ConfigDict, values: Mapping[str, Any]) -> ml_collections.ConfigDict:
  """Sets dotted keys in place; a keyword of a method may be set whether the config wrote it or not."""
  for key, value in values.items():
    _set(c, key, value)
  return c


def _set(c, key, value):
  """Sets one dotted key: walks down, then rebuilds the tuples and dicts on the way up."""
  steps = [int(s[1:-1]) if s.startswith('[') else s for s in re.findall(r'[^.\[\]]+|\[-?\d+\]', key)]

  def put(holder, steps, depth):
    if not steps:
      return value
    s, rest = steps[0], steps[1:]
    if isinstance(holder, str) and isinstance(s, str) and depth:     # a bare name becomes a spec that can hold a keyword
      holder = dict(name=holder)
    if isinstance(s, int):
      items = list(holder) if isinstance(holder, list | tuple) else []
      if not -len(items) <= s < len(items):
        raise ConfigError(f"the config has no key '{key}': there are {len(items)} entries, not [{s}].")
      items[s] = put(items[s], rest, depth + 1)
      return tuple(items)
    if not hasattr(holder, 'keys'):
      raise ConfigError(f"the config has no key '{key}': '{s}' stands below {holder!r}, which has no keys.")
    if depth == 2 and key.startswith('phases[') and s not in holder and all(isinstance(x, str) for x in steps):
      return {**holder, '.'.join(steps): value}      # a phase names the run's keys by their dotted path; they are looked at with it
    spec = depth and ('name' in holder or {'estimator', 'loss'} <= set(holder.keys()))      # a method, a track
    if s not in holder and (rest or not spec):
      near = difflib.get_close_matches(s, map(str, holder.keys()), 1)
      hint = f" Did you mean '{near[0]}'?" if near else ''
      raise ConfigError(f"the config has no key '{key}'; beside '{s}' there is {_listed(holder.keys())}.{hint}")
    new = put(holder.get(s), rest, depth + 1)
    if not depth:
      holder[s] = new
      return holder
    return {**(holder.to_dict() if isinstance(holder, ml_collections.ConfigDict) else holder), s: new}

  put(c, steps, 0)


def arguments(argv: Sequence[str]) -> tuple[dict[str, str | bool], dict[str, Any]]:
  """Splits a command line into `--flag value` and `--config.key=value` overrides.

  Values are Python literals where they look like one (true, false and none too), text otherwise.
  """
  flags, values, at = {}, {}, list(argv)
  while at:
    word = at.pop(0)
    if not word.startswith('--'):
      raise ConfigError(f"'{word}' is not an option; options begin with --.")
    name, eq, value = word[2:].partition('=')
    if not eq and at and not at[0].startswith('--'):
      eq, value = '=', at.pop(0)
    if name.startswith('config.'):
      if not eq:
        raise ConfigError(f"'{word}' needs a value: {word}=VALUE.")
      values[name[7:]] = _literal(value)
    else:
      flags[name] = value if eq else True
  return flags, values


def _literal(text):
  if text in ('true', 'false', 'none'):
    text = text.capitalize()
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text


def plain(value: Any) -> Any:
  """A config as plain JSON-able values; a function becomes 'function:', its module (or config file) and name, which `revived` turns back."""
  if isinstance(value, ml_collections.ConfigDict | Mapping):
    return {str(k): plain(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [plain(v) for v in value]
  if isinstance(value, np.generic):
    return value.item()
  if callable(value):
    module, name = getattr(value, '__module__', '?'), getattr(value, '__qualname__', repr(value))
    if module.startswith(OWN):      # of a config file, which is no module that could be imported by its name
      module = FILES.get(module, module)
    return f'{FUNCTION}{module}:{name}'
  return value


def nameless(value: Any) -> list[str]:
  """Functions in a plain config that nobody can find again: lambdas, and those of another function or of a notebook."""
  if isinstance(value, Mapping | list):
    return [f for v in (value.values() if isinstance(value, Mapping) else value) for f in nameless(v)]
  lost = isinstance(value, str) and value.startswith(FUNCTION) and ('<' in value or value.startswith(f'{FUNCTION}__main__:'))
  return [value.removeprefix(FUNCTION)] if lost else []


def revived(value: Any) -> Any:
  """What `plain` made of a config and JSON kept, with its tuples and its functions.

  Raises:
    ConfigError: a function that cannot be imported here.
  """
  if isinstance(value, Mapping):
    return {k: revived(v) for k, v in value.items()}
  if isinstance(value, list):
    return tuple(map(revived, value))
  if not (isinstance(value, str) and value.startswith(FUNCTION)):
    return value
  module, _, name = value.removeprefix(FUNCTION).rpartition(':')
  try:
    return getattr(_executed(module) if module.endswith('.py') else importlib.import_module(module), name)
  except (ImportError, AttributeError, ValueError, OSError) as e:
    raise ConfigError(f"the config names the function '{name}' of '{module}', which is not found here: {e}. "
                      'A function in a config must have a name in a module or in the config file, and be there when a run is opened.') from e


def _listed(words) -> str:
  return ', '.join(sorted(map(str, words))) or 'nothing'
