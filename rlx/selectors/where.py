"""Keep the tokens of some steps, or of some blocks."""

from rlx import masked
from rlx.types import Array, Batch


def where(batch: Batch, keep: Array, *, label: str | None = None, role: str | None = None) -> Array:
  """Keeps tokens of steps whose label is above 0, and tokens of one block; with both, where both hold.

  Args:
    batch: reads `label[label]` `[N]` and `role[role]` `[R, T]`.
    keep: `[R, T]` bool.
    label: name of a step label: a flag of the environment's or a segmenter's.
    role: name of a block of the segmenter: 'think', 'answer' ...

  Returns:
    `[R, T]` bool.

  Proof: twin.
  """
  if label is not None:
    keep = keep & masked.to_tokens(batch.nodes.label[label] > 0, batch.tokens)
  return keep if role is None else keep & batch.tokens.role[role]
