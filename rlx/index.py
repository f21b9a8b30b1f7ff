"""Writes configs/README.md: configs and methods with paper, function, test and proof. `python -m rlx.index [--check]`."""

import ast
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

from rlx import assemble, config
from rlx.show import probe_matrix, table

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEAD = """<!-- written by `python -m rlx.index`; do not edit -->
# Configs and methods

`python -m rlx.train --config configs/NAME.py` runs a config, `configs/NAME.py:smoke` two steps of each of its phases. Every key stands in [base.py](base.py).
A method is named in a config by the name below, by a dotted name from anywhere (`my_lab.mod.fn`), or as the function itself.
Modes: the keywords that choose between ways, the default first. Proof: *golden* agrees with published numbers, *twin* with a hand example and a slow twin written from the paper, *guess* says what the paper leaves open and is ours; the rest has a twin where both stand.
"""
SHOWN = ('env', 'estimator', 'selector', 'loss', 'transform', 'reward', 'probe', 'explorer', 'context', 'curriculum')   # of a config
TITLES = dict(env='Environments', tx='Optimizers', rows='Rows', curriculum='Curricula', loss='Losses', policy='Policies', segment='Segmenters')


# ---- configs -----------------------------------------------------------------------------------------------------------

def uses(c: ml_collections.ConfigDict) -> dict[str, list[str]]:
  """kind -> the methods that any phase of a config names, in order."""
  found: dict[str, dict] = {}

  def add(kind, specs):
    for spec in specs if isinstance(specs, list | tuple) else (specs,):
      spec = spec['name'] if hasattr(spec, 'keys') else spec
      if spec is not None:
        found.setdefault(kind, {})[spec if isinstance(spec, str) else spec.__name__] = None

  for one in assemble.phases(c):
    for kind, key in dict(env='env', context='context', explorer='explorer', curriculum='curriculum', reward='rewards', probe='probes',
                          tokenizer='tokenizer', rows='rows', segment='segment', transform='transforms').items():
      add(kind, one[key])
    add('source', one.phase.source)
    models = {k: assemble.policy_spec(v) for k, v in one.models.items() if not assemble.copies(v)}
    for kind, specs in (('policy', models), ('label', one.labels), ('scorer', one.scorers)):
      add(kind, tuple(dict(specs).values()))
    for learner in (dict(tracks=one.tracks, tx=one.tx), *dict(one.learners).values()):
      add('tx', learner.get('tx', ()))
      for track in dict(learner['tracks']).values():
        for kind in ('estimator', 'selector', 'loss'):
          add(kind, track.get(kind, ()))
        add('average', track.get('average', 'token_mean'))
  return {kind: list(names) for kind, names in found.items()}


@functools.cache
def configs(root: str) -> dict[str, tuple[str, Mapping[str, list[str]]]]:
  """file -> (docstring, what it uses), for each config of `root/configs`; base.py first."""
  folder, out = os.path.join(root, 'configs'), {}
  for name in sorted(os.listdir(folder), key=lambda n: (n != 'base.py', n)):
    if name.endswith('.py') and not name.startswith('_'):
      path = os.path.join(folder, name)
      out[name] = inspect.cleandoc(ast.get_docstring(ast.parse(_read(path))) or ''), uses(config.load(path))
  return out


def config_rows(root: str) -> Iterator[str]:
  """A row a config; what base.py says too is left out."""
  _, usual = configs(root)['base.py']
  for name, (doc, used) in configs(root).items():
    own = [m for kind in SHOWN for m in used.get(kind, ()) if name == 'base.py' or m not in usual.get(kind, ()) or kind in ('estimator', 'loss')]
    yield f'| [{name}]({name}) | {sentence(doc, whole=True)} | {papers(doc)} | {", ".join(f"`{m}`" for m in dict.fromkeys(own))} |'


def table_rows(root: str) -> Iterator[str]:
  """A row a table of runs."""
  folder = os.path.join(root, 'configs', 'tables')
  for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
    if name.endswith('.py') and not name.startswith('_'):
      path = os.path.join(folder, name)
      t: Any = table.read(path)
      if 'tasks' in t:      # a probe matrix: so many seeds, a column a task
        t = dict(probe_matrix.checked(t, path), seeds=range(t['seeds']), columns=t['tasks'])
      else:
        t = table.load(path)
      rows = ', '.join(row['name'] for row in t['rows'])
      yield f'| [{name}](tables/{name}) | {cell(rows)} | {", ".join(map(str, t["seeds"]))} | {", ".join(t["columns"])} |'


# ---- methods -----------------------------------------------------------------------------------------------------------

def method_rows(kind: str, root: str) -> Iterator[str]:
  """A row a method of a kind."""
  for name in config.names(kind):
    fn = config.resolve(kind, name)
    doc, file = inspect.getdoc(fn) or '', os.path.relpath(inspect.getsourcefile(fn), ROOT)
    named = [n for n, (_, used) in configs(root).items() if name in used.get(kind, ()) and n != 'base.py']
    where = 'all' if len(named) > 1 and len(named) == len(configs(root)) - 1 else ', '.join(f'[{n[:-3]}]({n})' for n in named)
    test = test_of(kind, name, root)
    yield (f'| [`{name}`](../{file}) | {sentence(doc)} | {papers(doc)} | {cell(modes(fn, doc))} | {where} | {f"[{os.path.basename(test)}](../{test})" if test else ""} '
           f'| {cell(proof(doc) or "")} |')


def modes(fn: Callable, doc: str) -> str:
  """The keywords of a method that choose between ways, the default first: those that are on or off, and names of which `Args` quotes several."""
  entries = dict(re.findall(r'^  ((?:\w+, )*\w+): (.*(?:\n    .*)*)', doc.partition('Args:\n')[2].partition('\n\n')[0], re.M))
  said = {name: text for names, text in entries.items() for name in names.split(', ')}
  found = []
  for name, p in inspect.signature(fn).parameters.items():
    if p.kind is not p.KEYWORD_ONLY:
      continue
    choices = list(dict.fromkeys(re.findall(r"'([\w.-]+)'", said.get(name, ''))))
    if isinstance(p.default, bool):
      found.append(f'`{name}={p.default}`')
    elif isinstance(p.default, str) and p.default in choices and len(choices) > 1:
      found.append(f'`{name}`: ' + ' '.join([p.default, *(c for c in choices if c != p.default)]))
  return '; '.join(found)


def proof(doc: str) -> str | None:
  """What the last line of a docstring says after 'Proof:', None where it says nothing."""
  said = re.fullmatch(r'Proof: (.*?)\.?', doc.rstrip().rsplit('\n', 1)[-1])
  return said and said[1]


def test_of(kind: str, name: str, root: str) -> str:
  """The file that tests a method: that of its own name, of its module's name, or the first that names it; '' if none."""
  *parents, home = config.KINDS[kind].split('.')[1:]
  folder = parents[0] if parents else home if os.path.isdir(os.path.join(ROOT, 'rlx', home)) else 'core'
  every = tests(root)
  for file in (f'tests/{folder}/test_{name}.py', f'tests/{folder}/test_{home}.py'):
    if file in every:
      return file
  named = rf'from {re.escape(config.KINDS[kind])}(\.{name})? import .*\b{name}\b|\b{home}(\.{name})+\b'
  near = rf"{named}|import .*\b{name}\b|['\"]{name}['\"]"
  for file, text in every.items():
    if re.search(near if file.startswith(f'tests/{folder}/') else named, text):
      return file
  return ''


@functools.cache
def tests(root: str) -> dict[str, str]:
  """file -> text, for each test file."""
  out = {}
  for folder, _, files in os.walk(os.path.join(root, 'tests')):
    for f in files:
      if re.fullmatch(r'test_\w+\.py', f):
        path = os.path.join(folder, f)
        out[os.path.relpath(path, root)] = _read(path)
  return dict(sorted(out.items()))


# ---- the page ----------------------------------------------------------------------------------------------------------

def sentence(doc: str, whole: bool = False) -> str:
  """The first sentence of a docstring without links to papers and without a command; not `whole`: up to a colon or semicolon."""
  text = ' '.join(doc.split('\n\n')[0].split())
  text = re.sub(r'\s*\([^()]*arXiv:[^()]*\)|: `python -m [^`]*`', '', text)
  return cell(re.split(r"(?<!\bDr)(?<=[^\s.])(?:\.(?= [A-Za-z`]|$)" + ('' if whole else '|[:;](?= |$)') + ')', text)[0])


def papers(doc: str) -> str:
  """Links to the first two papers that a docstring names."""
  found = dict.fromkeys(re.findall(r'arXiv:(\d{4}\.\d{5})', doc))
  return ' '.join(f'[{n}](https://arxiv.org/abs/{n})' for n in list(found)[:2])


def cell(text: str) -> str:
  """Text as it may stand in a table of Markdown."""
  return re.sub(r'`[^`]*`|<', lambda m: '&lt;' if m[0] == '<' else m[0], text).replace('|', '\\|')


def render(root: str = ROOT) -> str:
  """The whole page."""
  configs.cache_clear()
  tests.cache_clear()
  lines = [HEAD, '## Configs\n', '| config | what it is | paper | methods |', '|---|---|---|---|', *config_rows(root)]
  if rows := list(table_rows(root)):
    lines += ['\n## Tables\n', '`python -m rlx.table --config configs/tables/NAME.py` runs every row over every seed.\n',
              '| table | rows | seeds | columns |', '|---|---|---|---|', *rows]
  for kind in config.KINDS:
    if rows := list(method_rows(kind, root)):
      lines += [f'\n## {TITLES.get(kind, kind.capitalize() + "s")}\n', '| name | what it is | paper | modes | configs | test | proof |',
                '|---|---|---|---|---|---|---|', *rows]
  return '\n'.join(lines) + '\n'


def main(argv: list[str] | None = None) -> int:
  """Writes the page; with --check only says whether it is up to date, and returns 1 where it is not."""
  argv = sys.argv[1:] if argv is None else argv
  if set(argv) - {'--check'}:
    print('usage: python -m rlx.index [--check]', file=sys.stderr)
    return 2
  if not os.path.isdir(os.path.join(ROOT, 'configs')):
    print(f'error: there is no folder configs/ in {ROOT}: run this in a clone, after `pip install -e .`', file=sys.stderr)
    return 2
  path = os.path.join(ROOT, 'configs', 'README.md')
  text = render()
  if '--check' in argv:
    fresh = os.path.isfile(path) and _read(path) == text
    print('configs/README.md is up to date' if fresh else 'configs/README.md is stale: run python -m rlx.index')
    return 0 if fresh else 1
  with open(path, 'w', encoding='utf-8') as f:
    f.write(text)
  print(path)
  return 0


def _read(path):
  with open(path, encoding='utf-8') as f:
    return f.read()


if __name__ == '__main__':
  sys.exit(main())
