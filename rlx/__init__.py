"""rlx: reinforcement learning of language-model agents as small pure functions in JAX."""


def load(workdir: str, step=None):
  """Opens a run: `rlx.load(workdir).sample(prompt)`. See `rlx.session.load`."""
  from rlx import session   # a notebook that only thinks about estimators need not load the trainer
  return session.load(workdir, step)
