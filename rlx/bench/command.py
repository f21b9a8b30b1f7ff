"""The command: `python -m rlx.bench BENCH [flags]`."""

import argparse
import inspect
import json
import pathlib
import sys
from collections.abc import Sequence

from rlx.bench import compare, sides, work
from rlx.bench.credit import credit
from rlx.bench.credit import text as credit_text
from rlx.bench.decode import decode
from rlx.bench.head import head
from rlx.bench.table import machine, table

BENCHES = dict(credit=credit, head=head, decode=decode)      # their keyword-only parameters are flags; they return lines
TEXTS = dict(credit=credit_text)                             # how lines are shown, where not as `table` does
SIZE = work.Size()
WORKS = dict(
    sample='4 prompts x 8 samples of 64 new tokens, prompts of 64',
    score='log-probability and entropy of 32 x 64 tokens in rows of 128',
    update='forward, backward, clip and AdamW on them (GRPO)', step='a whole GRPO step: sample, reward, credit, update')


def parser() -> argparse.ArgumentParser:
  """A subcommand for each bench."""
  top = argparse.ArgumentParser(prog='python -m rlx.bench', description='Times one part of rlx and prints a table of medians.')
  commands = top.add_subparsers(dest='bench', required=True, metavar='bench')
  for name, what in WORKS.items():
    one = commands.add_parser(name, help=what, description=f'{name}: {what}.')
    one.add_argument('--model', default='A', metavar='A|B|PATH',
                     help='A: random, 4 layers of 256; B: SmolLM2-135M; or a Hugging Face directory')
    one.add_argument('--dtype', default='float32', choices=('float32', 'bfloat16'))
    one.add_argument('--repeats', type=int, default=5, help='repetitions behind each median, default 5')
    one.add_argument('--microbatch', type=int, default=8, metavar='ROWS', help='rows of ours a backward pass, default 8')
    one.add_argument('--lanes', type=int, default=1, metavar='N', help="threads of our sampler, the config's sampler.lanes, default 1")
    one.add_argument('--remat', default='none', choices=('none', 'dots', 'full'), help='what our backward pass makes again, default none')
    one.add_argument('--peer', action='append', default=[], choices=sorted(sides.PEERS),
                     help='compare with; may be given several times')
    one.add_argument('--peer-python', action='append', default=[], metavar='PATH',
                     help="a peer's Python; one for each --peer in their order, or one for all")
    one.add_argument('--peer-microbatch', type=int, metavar='ROWS', help='rows of theirs a pass, default all')
    one.add_argument('--exclusive', action='store_true', help='never two processes in memory: each repetition starts anew')
  for name, bench in BENCHES.items():
    one = commands.add_parser(name, help=bench.__doc__.splitlines()[0])
    for key, p in inspect.signature(bench).parameters.items():
      many = isinstance(p.default, tuple)
      kind = type(p.default[0] if many else p.default)
      one.add_argument(f'--{key}', default=p.default, type=kind, nargs='+' if many else None, help=f'default: {p.default}')
  for one in commands.choices.values():
    one.add_argument('--json', metavar='PATH', help='write the machine and the figures there too')
  return top


def main(argv: Sequence[str] | None = None) -> list:
  """Runs one bench, prints the table and returns its lines or comparisons; what a bench refuses is said in one sentence."""
  top = parser()
  args = vars(top.parse_args(argv))
  bench, path = args.pop('bench'), args.pop('json')
  try:
    if bench in WORKS:
      names, pythons = args.pop('peer'), args.pop('peer_python')
      if len(pythons) != len(names) and not (len(pythons) == 1 and names):
        raise ValueError(f'{len(names)} --peer and {len(pythons)} --peer-python: give one for each, or one for all.')
      peers = list(zip(names, pythons * len(names) if len(pythons) == 1 else pythons))
      found = compare.compare(bench, peers=peers, size=SIZE, tell=lambda text: print(text, file=sys.stderr, flush=True), **args)
      shown = compare.text(found, bench, SIZE)
      on = machine(found[0].results[0].info['device'])      # of our side: this process leaves an accelerator to it
      stored = [dict(results=[{**r._asdict(), 'runs': [x._asdict() for x in r.runs],
                               'info': {k: v for k, v in r.info.items() if k not in ('logp', 'entropy')}} for r in c.results],
                     apart=c.apart) for c in found]
      title = f"{bench}, model {args['model']}, {args['dtype']}: {WORKS[bench]}\n"
    else:
      on, found = machine(), BENCHES[bench](**args)
      title, shown, stored = '', TEXTS.get(bench, table)(found), [x._asdict() for x in found]
  except ValueError as e:
    top.error(str(e))
  print(', '.join(f'{k} {v}' for k, v in on.items()))
  print(title + shown)
  if path:
    pathlib.Path(path).write_text(json.dumps(dict(machine=on, bench=bench, args=args, lines=stored), indent=1) + '\n')
  return found
