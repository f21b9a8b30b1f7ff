"""A run's trained policy as a folder that transformers opens: `python -m rlx.export --workdir runs/x --out DIR [--step N|best]`.

  --dtype float32 | bfloat16 | float16     of the tensors, by default float32, as trained
"""

import os
import sys

from rlx import assemble, config, session
from rlx.config import ConfigError
from rlx.models import hf
from rlx.models import pretrained as files


def export(workdir: str, out: str, *, step: str | int | None = None, dtype: str = 'float32') -> int:
  """Writes the policy of a run's newest checkpoint (or of `step`, a number or 'best') to `out`; value heads are left out.

  Returns:
    The step it has been taken from.

  Raises:
    ConfigError: no run, no checkpoint.
    ValueError: a policy of no known family, a folder that is taken, an unknown dtype.
  """
  c, models, number = session.restored(workdir, step)
  policy, params, tok = models['policy']
  own = assemble.pretrained_tokenizer(c)
  if own is None:
    with open(os.path.join(workdir, 'tokenizer.json'), encoding='utf-8') as f:
      texts, like = dict(tokenizer=f.read(), config=dict(tokenizer_class='PreTrainedTokenizerFast'), template=None), None
  else:
    texts, like = files.tokenizer_files(own['path']), files.config_file(own['path'])
    if own.get('template', 'own') != 'own':      # the one it was trained with, as the run keeps it, or none
      texts = dict(texts, template=files.tokenizer_files(workdir)['template'],
                   config={k: v for k, v in texts['config'].items() if k != 'chat_template'})
  hf.save(out, policy.config, params, texts, like=like, dtype=dtype)
  return number


def main(argv: list[str] | None = None) -> int:
  """The command."""
  flags, values = config.arguments(sys.argv[1:] if argv is None else argv)
  try:
    if values or set(flags) - {'workdir', 'out', 'step', 'dtype'} or not {'workdir', 'out'} <= set(flags) or True in flags.values():
      raise ConfigError('usage: python -m rlx.export --workdir RUN --out DIR [--step N|best] [--dtype float32|bfloat16|float16]')
    number = export(flags['workdir'], flags['out'], step=flags.get('step'), dtype=flags.get('dtype', 'float32'))
  except (ValueError, OSError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 2
  print(f"{flags['out']}: the policy of '{flags['workdir']}' at step {number}")
  return 0


if __name__ == '__main__':
  sys.exit(main())
