"""A pretrained model: its folder, GGUF file or fetched name to a `Policy` that can load its weights."""

import functools
import inspect
import os
from typing import Any

import jax
import tokenizers

from rlx import fetch
from rlx.models import gguf, hf
from rlx.models.transformer import transformer
from rlx.types import Policy

def pretrained(*, path: str, vocab: int | None = None, dtype: str = 'float32', remat: str = 'none', **options) -> Policy:
  """A Llama 3.x, SmolLM2, Qwen2.5 or dense Qwen3 model with the weights of a file.

  Args:
    path: a folder in the Hugging Face layout (config.json, safetensors), a .gguf file, or a name that `python -m rlx.fetch` knows.
    vocab: size of the tokenizer; the model's may be larger (padded), never smaller. None: not compared.
    dtype, remat: as in `transformer`.
    **options: other keywords of `transformer` that are no part of the architecture, such as `unroll`, `freeze` and `lora`.

  Returns:
    `Policy` with `load(shardings) -> params`, the weights in float32; `init` draws random ones of the same shapes.

  Raises:
    FileNotFoundError: nothing is there, or the name has not been fetched.
    ValueError: a model that is not computed, weights that do not fit config.json, a tokenizer larger than the vocabulary.

  Proof: golden.
  """
  source = opened(path)
  keywords = hf.keywords(source.config)
  known = inspect.signature(transformer).parameters
  for name in options:
    if name in keywords:
      raise ValueError(f"'{name}' is given by the files of '{path}': leave it out.")
    if name not in known:
      raise ValueError(f"there is no keyword '{name}'; there are {', '.join(sorted(set(known) - set(keywords)))}.")
  if vocab is not None and vocab > keywords['vocab']:
    raise ValueError(f"the tokenizer has {vocab} ids, the model '{path}' only {keywords['vocab']}: take the model's own tokenizer.")
  policy = transformer(**keywords, dtype=dtype, remat=remat, **options)
  shapes = jax.eval_shape(policy.init, jax.random.key(0))
  hf.verify(source, shapes)
  return policy._replace(load=functools.partial(hf.load, source, shapes))


def located(path: str) -> str:
  """The folder or file that a path or a fetched name stands for.

  Raises:
    FileNotFoundError: it is not there; the message says how to get it.
  """
  if os.path.exists(path):
    return path
  if path in fetch.MODELS:
    folder = fetch.folder(path)
    if not os.path.isdir(folder):
      raise FileNotFoundError(f"the model '{path}' has not been fetched yet: run `python -m rlx.fetch {path}`.")
    return folder
  raise FileNotFoundError(f"there is no model '{path}': give a Hugging Face folder, a .gguf file, or one of "
                          f"{', '.join(fetch.MODELS)} (python -m rlx.fetch NAME).")


def opened(path: str) -> hf.Source:
  """The weights of a path or a fetched name, to be read.

  Raises:
    FileNotFoundError, ValueError: as `pretrained`.
  """
  where = located(path)
  if os.path.isdir(where):
    return hf.source(where)
  if not where.endswith('.gguf'):
    raise ValueError(f"'{path}' is neither a folder nor a .gguf file.")
  return gguf.source(where)


def tokenizer_files(path: str) -> dict[str, Any]:
  """dict(tokenizer: text of a tokenizer.json, config: tokenizer_config.json as a dict, template: the chat template or None,
  generation: generation_config.json as a dict or None).

  Raises:
    FileNotFoundError, ValueError: as `pretrained`; or the model has no tokenizer that can be read.
  """
  where = located(path)
  return hf.tokenizer_files(where) if os.path.isdir(where) else gguf.tokenizer_files(where)


def vocabulary(path: str) -> dict[str, int]:
  """token -> id of a model's tokenizer, added tokens too.

  Raises:
    FileNotFoundError, ValueError: as `tokenizer_files`.
  """
  return tokenizers.Tokenizer.from_str(tokenizer_files(path)['tokenizer']).get_vocab(with_added_tokens=True)


def config_file(path: str) -> dict[str, Any]:
  """config.json of the model, for `hf.save(like=...)`.

  Raises:
    FileNotFoundError, ValueError: as `pretrained`.
  """
  return dict(opened(path).config)
