"""What a named model says about the batch, as streams."""

import dataclasses

import jax

from rlx.learn.forward import forward, temperatures
from rlx.types import Batch


def score(batch: Batch, *, models, model: str = 'policy', into: str = '', head: str = '', temperature: float = 1.,
          microbatch: int | None = None, actions: int | None = None) -> Batch:
  """Adds streams with a model's log-probabilities, entropies or values of every sampled token.

  Args:
    batch: any.
    models: name -> model, supplied by the loop.
    model: whose opinion.
    into: the log-probability goes to `stream[into]` (`'ref_logp'`, `'old_logp'`), and its entropy to `stream[into + '_entropy']`;
      '' for neither.
    head: a value head of that model: its values go to `stream['value/<head>']`; '' for none.
    temperature: of the log-probabilities; that of sampling makes a ratio of 1. Tokens of branches with one of their own keep that.
    microbatch: rows of a forward pass, which bounds its memory; None: all.
    actions: the largest number of sampled tokens in a row, supplied by the loop; None: all may be.

  Raises:
    KeyError: no such model.
  """
  if model not in models:
    raise KeyError(f"no model '{model}'; there are {sorted(models)}")
  m = models[model]
  out = jax.lax.stop_gradient(forward(m.policy, m.params, batch, temperature=temperatures(batch.tokens, temperature),
                                      heads=(head,) if head else (), actions=actions, microbatch=microbatch))
  streams = dict(batch.tokens.stream)
  if into:
    streams |= {into: out.logp, f'{into}_entropy': out.entropy}
  if head:
    streams[f'value/{head}'] = out.value[head]
  return dataclasses.replace(batch, tokens=dataclasses.replace(batch.tokens, stream=streams))
