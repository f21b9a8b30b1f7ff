"""Tiny tokenizers with the chat templates of the families, and a policy that speaks with one of them.

`BYTES` can spell anything; `SMALL` only knows the characters of the game (tests/grow/game.py) and of Qwen3's template, so that an
untrained policy ends a turn now and then.
"""

import functools
import json
import os
import pathlib
import tempfile

import jax
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers

from rlx.grow import engine as engines
from rlx.grow import tokenizer as toks
from rlx.models.transformer import transformer
from rlx.types import Model

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden'
MADE = json.loads((GOLDEN / 'chat.json').read_text(encoding='utf-8'))
SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>', '<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>',
           '<bos>', '<eos>', '<start_of_turn>', '<end_of_turn>', '<think>', '</think>')
GAME = ['user assistant system ab:cd 0. 1. 2. 3. 4. 5. 6. 7. 8. 9.\n', ' user\n', ' assistant\n', 'abab cdcd'] * 2
LIMITS = engines.Limits(slots=16, width=160, turn=8, chunk=16, buckets=(4,), copy_from=6)


@functools.cache
def _json(small):
  inner = tokenizers.Tokenizer(models.BPE())
  inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
  chars = [] if small else sorted(pre_tokenizers.ByteLevel.alphabet())
  special = SPECIAL[:3] + SPECIAL[-2:] if small else SPECIAL
  inner.train_from_iterator(GAME, trainers.BpeTrainer(vocab_size=48 if small else 400, initial_alphabet=chars, min_frequency=2,
                                                      special_tokens=[AddedToken(t, special=True) for t in special], show_progress=False))
  return inner.to_str()


def write(folder, name='qwen3', *, small=False, **config) -> str:
  """The folder of a pretrained tokenizer: a family's template (None: none), and keys of its config."""
  bos, eos = MADE['tokens'].get(name, ('<|endoftext|>', '<|im_end|>'))
  os.makedirs(folder, exist_ok=True)
  files = {'tokenizer.json': _json(small), 'tokenizer_config.json': json.dumps(dict(bos_token=bos, eos_token=dict(content=eos), **config))}
  if name:
    files['chat_template.jinja'] = source(name) if (GOLDEN / 'templates' / f'{name}.jinja').is_file() else name
  for file, text in files.items():
    (pathlib.Path(folder) / file).write_text(text, encoding='utf-8')
  return str(folder)


def source(name) -> str:
  return (GOLDEN / 'templates' / f'{name}.jinja').read_text(encoding='utf-8')


def tok(name='qwen3', *, small=False, template='own') -> toks.Tokenizer:
  """A fresh tokenizer."""
  with tempfile.TemporaryDirectory() as folder:
    return toks.pretrained(path=write(folder, name, small=small), template=template)


POLICY = transformer(vocab=tok(small=True).size, layers=1, dim=16, heads=2, ff=32, tied=False)


@functools.cache
def params():
  p = POLICY.init(jax.random.key(3))
  return {**p, 'head': jax.tree.map(lambda x: x * 1.5, p['head'])}


@functools.cache
def _sampler(step, ids):
  return engines.sampler(POLICY, engines.Limits(turn=step), engines.Stop(ids=ids))


def engine(own, strings=(), **limits) -> engines.Engine:
  """Empty slots; programs are compiled once a shape for all tests."""
  limits, stop = LIMITS._replace(**limits), engines.Stop(own.ends, strings)
  made, kept = _sampler(engines.segment(limits, stop), stop.ids), engines.sampler
  engines.sampler = lambda *_: made
  try:
    return engines.create(Model(POLICY, params(), own), limits, stop)
  finally:
    engines.sampler = kept
