"""What is said of a finished episode or prompt: rewards, some of them coroutines, and probes on the warm cache."""

import concurrent.futures
import contextlib
import inspect
import queue
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from rlx import walk
from rlx.grow import engine as engines
from rlx.grow import workers
from rlx.grow.tokenizer import body, render
from rlx.types import Episode, Group, Message, View

REDUCE = dict(mean_logp=lambda logp, entropy: logp.mean(), sum_logp=lambda logp, entropy: logp.sum(),
              mean_entropy=lambda logp, entropy: entropy.mean())


# ---- rewards -----------------------------------------------------------------------------------------------------------

def pay(prompt: Any, path: Sequence[int], rewards: Sequence[Callable]) -> None:
  """The rewards of one episode, as it ends; a coroutine is started and not waited for."""
  episode = Episode(prompt.task, [prompt.tree[i] for i in path], path)
  for fn in rewards:
    if _grain(fn) == 'episode':
      verdict = fn(episode)
      if inspect.isawaitable(verdict):
        prompt.waiting.append((fn, [episode], workers.later(verdict)))
      else:
        _write(prompt, fn, [episode], [verdict])


def compare(prompt: Any, rewards: Sequence[Callable]) -> None:
  """The rewards of a whole prompt, once its episodes have theirs."""
  prompt.compared = True
  episodes = list(walk.episodes(Group(prompt.task, prompt.tree)))
  for fn in rewards:
    if _grain(fn) == 'group' and episodes:
      verdicts = fn(episodes)
      if inspect.isawaitable(verdicts):
        prompt.waiting.append((fn, episodes, workers.later(verdicts)))
      else:
        _write(prompt, fn, episodes, verdicts)


def settle(prompts: Sequence[Any], rewards: Sequence[Callable], lost: dict[str, list[str]], serve: Callable | None = None) -> None:
  """Waits for every verdict that is under way; `serve` is called meanwhile, where a judge needs this thread.

  Where a coroutine raises there is no verdict: None on the last step of each episode it was asked about, on every channel it
  writes that has nothing there, and 'reward_errors' is counted. `lost` collects what each reward raised, '' where nothing.
  """
  for prompt in prompts:
    _wait(prompt, lost, serve)
  for prompt in prompts:
    if not prompt.compared:
      compare(prompt, rewards)
  for prompt in prompts:
    _wait(prompt, lost, serve)


def _wait(prompt, lost, serve):
  waiting, prompt.waiting = prompt.waiting, []
  for fn, episodes, future in waiting:
    while serve and not future.done():
      serve()
      concurrent.futures.wait((future,), timeout=.01)
    try:
      verdict = future.result()
    except Exception as e:   # a judge is foreign code, often behind a network
      lost.setdefault(_name(fn), []).append(f'{type(e).__name__}: {e}')
      prompt.metrics['reward_errors'] = prompt.metrics.get('reward_errors', 0.) + 1
      for episode in episodes:
        for channel in _channels(fn):
          episode.nodes[-1].reward.setdefault(channel, None)
      continue
    lost.setdefault(_name(fn), []).append('')
    _write(prompt, fn, episodes, [verdict] if _grain(fn) == 'episode' else verdict)


def _write(prompt, fn, episodes, verdicts):
  """{channel: one float a step, or None} onto the steps of each episode; a shared step keeps the first verdict that is one."""
  name = _name(fn)
  if not isinstance(verdicts, Sequence) or len(verdicts) != len(episodes):
    given = len(verdicts) if isinstance(verdicts, Sequence) else type(verdicts).__name__
    raise ValueError(f"the reward '{name}' gave {given} verdicts for {len(episodes)} episodes: it returns one dict an episode.")
  for episode, verdict in zip(episodes, verdicts, strict=True):
    if not isinstance(verdict, Mapping):
      raise ValueError(f"the reward '{name}' gave {verdict!r}: it returns a dict from channels to one number a step.")
    for channel, values in verdict.items():
      if not isinstance(values, Sequence | np.ndarray) or len(values) != len(episode.steps):
        given = len(values) if isinstance(values, Sequence | np.ndarray) else repr(values)
        raise ValueError(f"the reward '{name}' gave {given} numbers on '{channel}' for {len(episode.steps)} steps.")
      for s, v in zip(episode.steps, values, strict=True):
        if v is not None and not np.isfinite(float(v)):
          raise ValueError(f"the reward '{name}' gave {v} on '{channel}' for step {s}: a verdict is a finite number, or None.")
        there = prompt.tree[s].reward.get(channel)
        if there is not None and prompt.authors.get((s, channel)) is not fn:
          raise ValueError(f"the reward '{name}' writes '{channel}', which the environment or another reward pays already: "
                           'give it a channel of its own.')
        if there is None:
          prompt.tree[s].reward[channel] = None if v is None else float(v)
          prompt.authors[s, channel] = fn


def authors(prompt: Any) -> set[str]:
  """Names of the rewards that gave a verdict on a step of the prompt."""
  return {_name(fn) for (s, channel), fn in prompt.authors.items() if prompt.tree[s].reward.get(channel) is not None}


def _grain(fn):
  return getattr(fn, 'grain', 'episode')


def _name(fn):
  return getattr(fn, '__name__', type(fn).__name__)


def _channels(fn):
  written = [w.removeprefix('reward/') for w in getattr(fn, 'writes', ()) if w.startswith('reward/')]
  return written or ['task']


def server(rewards: Sequence[Callable], engine: engines.Engine, key: jax.Array) -> Callable | None:
  """A function that answers what the rewards' judges ask of the policy by then; None where none does.

  What was asked before, by a rollout that was given up, is not answered any more. Which questions share a batch depends on the clock, what
  each is answered on its prompt, its sample and `key`.
  """
  judges = [j for j in (getattr(fn, 'judge', None) for fn in rewards) if hasattr(j, 'asked')]
  for judge in judges:
    judge.served = True
    with contextlib.suppress(queue.Empty):
      while True:
        judge.asked.get_nowait()[2].cancel()

  def serve():
    for judge in judges:
      _answer(judge, engine, key)
  return serve if judges else None


def _answer(judge, engine, key):
  tok, jobs = engine.model.tokenizer, []
  while True:
    try:
      prompt, sample, answer = judge.asked.get_nowait()
    except queue.Empty:
      break
    if not answer.set_running_or_notify_cancel():      # whoever asked waits no longer
      continue
    context = render([Message('user', prompt) if tok.chat else prompt], [], tok)
    if len(context) + judge.limit > engine.limits.width:
      answer.set_result(None)
    else:
      jobs.append((context, (zlib.crc32(prompt.encode()) & 0x7fffffff, 0x60000000, sample), answer))
  jobs.sort(key=lambda job: job[1])
  drawn = engines.keys(key, [code for _, code, _ in jobs], 1 << (len(jobs) - 1).bit_length()) if jobs else ()
  for at in range(0, len(jobs), width := max(engines.vacant(engine), 1)):
    part = [engines.Request(c, -1, k, dict(temperature=judge.temperature), judge.limit) for (c, _, _), k in
            zip(jobs[at:at + width], drawn[at:at + width], strict=True)]
    for (_, _, answer), speech in zip(jobs[at:at + width], engines.speak(engine, part), strict=True):
      engines.free(engine, speech.slot)
      answer.set_result(tok.decode(body(speech.ids, tok)))


# ---- probes ------------------------------------------------------------------------------------------------------------

def probe(prompt: Any, view: View, probes: Sequence[Callable], engine: engines.Engine, *, shown: Callable, key: jax.Array,
          sampling: Mapping[str, float]) -> dict[str, float]:
  """Runs the probes of a finished prompt on the warm cache and reduces each to one number.

  Args:
    prompt: whose `tree` gets the values.
    view: of it.
    probes: what is asked.
    engine: the policy's.
    shown: (step, room) -> ids that stand before the suffix, None where they leave no such room; step -1: the prompt.
    key: the step's key.
    sampling: of continuations.

  Returns:
    What is known of the prompt itself. A probe that does not fit a slot is counted as 'probes_full' and has the value
    of the step before, of the prompt below the first one: what could not be asked has gained nothing. Without that one either it has none.
  """
  tok, known, jobs, missed = engine.model.tokenizer, {}, [], []
  for i, p in enumerate(p for fn in probes for p in fn(view)):
    if not -1 <= p.node < len(prompt.tree):
      raise ValueError(f"the probe '{p.name}' asks about step {p.node}; the tree has {len(prompt.tree)}.")
    if not callable(p.reduce) and p.reduce not in REDUCE or p.reduce == 'mean_entropy' and not p.samples:
      raise ValueError(f"the probe '{p.name}' has reduce='{p.reduce}'; there are {sorted(REDUCE)} or a function of (logp, entropy), "
                       "and 'mean_entropy' needs samples.")
    before, after = (list(tok.encode(text)) for text in (p.suffix[:p.score_from], p.suffix[p.score_from:]))
    context = shown(p.node, len(before) + max(len(after) + p.limit * (p.samples > 0), 1))
    if context is None:
      prompt.metrics['probes_full'] = prompt.metrics.get('probes_full', 0.) + 1
      missed.append(p)
    else:
      jobs.append((i, p, list(context), before, after))

  forced = [j for j in jobs if not j[1].samples]
  scores = engines.score(engine, [c for _, _, c, _, _ in forced], [b + a for _, _, _, b, a in forced])
  for (_, p, _, before, after), logp in zip(forced, scores, strict=True):
    _put(prompt, known, p, _reduced(p, logp[len(before):], None))
  for i, p, context, before, after in jobs:
    if not p.samples:
      continue
    codes, got = [(prompt.index, 0x70000000 + i, s) for s in range(p.samples)], []
    drawn = engines.keys(key, codes, p.samples)
    while len(got) < p.samples:
      some = drawn[len(got):len(got) + max(engines.vacant(engine), 1)]
      got += engines.speak(engine, [engines.Request(context + before + after, -1, k, dict(sampling), p.limit) for k in some])
      for speech in got[-len(some):]:
        engines.free(engine, speech.slot)
    _put(prompt, known, p, np.mean([_reduced(p, g.logp, g.entropy) for g in got]))
  for p in sorted(missed, key=lambda p: p.node):
    up = prompt.tree[p.node].parent if p.node >= 0 else -2
    before = known if up == -1 else prompt.tree[up].value if up >= 0 else {}
    if p.name in before:
      _put(prompt, known, p, before[p.name])
  return known


def _reduced(p, logp, entropy):
  fn = p.reduce if callable(p.reduce) else REDUCE[p.reduce]
  if not len(logp):      # of nothing one is certain
    logp, entropy = np.zeros(1, np.float32), None if entropy is None else np.zeros(1, np.float32)
  value = float(fn(logp, entropy))
  if not np.isfinite(value):
    raise ValueError(f"the probe '{p.name}' gave {value} for log-probabilities {np.asarray(logp)[:8]}: it must be a finite number.")
  return value


def _put(prompt, known, p, value):
  (prompt.tree[p.node].value if p.node >= 0 else known)[p.name] = float(value)
