"""Tasks by the graph of their rollouts in which equal turns are one: where these go wrong, in how many ways right."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlx import walk
from rlx.types import Curriculum, Group


class Quotient(NamedTuple):
  """The trials of a task with equal turns made one. Where a trial repeats a turn, the graph has a cycle."""
  paths: list[tuple]                    # the turns of each trial
  success: list[bool]
  potential: dict[Any, float]           # turn -> share of the trials through it that succeed; None: the start, all trials
  branches: dict[Any, dict[Any, set]]   # turn -> the turn that follows -> the trials that do so


def topo_curate(*, env, split: str = 'train', seed: int = 0, channel: str = 'task', success: float = .5, labels: Sequence[str] = (),
                mix: float = .5, unseen: float = 1., least: float = .05) -> Curriculum:
  """Draws tasks in proportion to a score of their last rollouts (TopoCurate, arXiv:2603.01714).

    p_task ~ max(score, least)
    score = mix * failing branches / branches + (1 - mix) * distinct successful chains / successful trials

  Branches are the ways on from a turn that has several; one fails if no trial that takes it succeeds. The paper names these two
  ratios and the sampling; mix, least and what is done before a task was tried are ours, and so is drawing while training goes
  on: the paper scores a fixed set first. The memory is one score a task, the newest.

  Args:
    env: the environment, supplied by the loop.
    split: its split.
    seed: of the draws, supplied by the loop.
    channel: reward channel of success.
    success: a trial succeeds if its return is above.
    labels: labels of a step that make turns the same, such as ('state', 'action', 'next'); (): what is said and what is observed
      after it, case and spaces aside. A chain of the paper is one of tool calls: name the label of the call where turns hold free words,
      or every chain is distinct.
    mix: weight of the first ratio.
    unseen: score of a task that was never tried.
    least: the lowest score, so that every task may come.

  Raises:
    ValueError: the split has no tasks; `unseen` or `least` is not above 0; mix is not between 0 and 1.

  Source: a public reading note of the paper.

  Proof: guess: every expression; the paper's are not public.
  """
  tasks = env.tasks(split)
  if not len(tasks):
    raise ValueError(f"the environment has no tasks in split '{split}'.")
  if not (unseen > 0 and least > 0 and 0 <= mix <= 1):
    raise ValueError(f'unseen and least must be above 0 and mix between 0 and 1; they are {unseen}, {least} and {mix}.')

  def sample(state, n, key):
    del key
    weight = np.full(len(tasks), unseen)
    for i, score in state['seen'].values():
      weight[i] = unseen if score is None else max(score, least)
    rng = np.random.default_rng((seed, state['drawn']))
    picks = [int(i) for i in rng.choice(len(tasks), n, replace=n > len(tasks), p=weight / weight.sum())]
    drawn = [tasks[i] for i in picks]
    seen = {**{t.id: [i, None] for t, i in zip(drawn, picks, strict=True)}, **state['seen']}
    return dict(drawn=state['drawn'] + n, seen=seen), drawn

  def update(state, groups):
    seen = dict(state['seen'])
    for group in groups:
      graph = quotient(group, channel=channel, success=success, labels=labels)
      if group.task.id in seen and graph.paths:
        seen[group.task.id] = [seen[group.task.id][0], task_score(graph, mix=mix)]
    return dict(state, seen=seen)

  return Curriculum(init=lambda: dict(drawn=0, seen={}), sample=sample, update=update)


def quotient(group: Group, *, channel: str = 'task', success: float = .5, labels: Sequence[str] = ()) -> Quotient:
  """The graph of a prompt's ended episodes; those without a verdict are left out."""
  paths, won = [], []
  for episode in walk.episodes(group):
    paid = [n.reward.get(channel, 0.) for n in episode.nodes]
    if None not in paid:
      after = [n.obs for n in episode.nodes[1:]] + ['']
      fold = lambda text: ' '.join(text.casefold().split())
      paths.append(tuple(tuple(n.label.get(k) for k in labels) if labels else (fold(n.text), fold(obs))
                         for n, obs in zip(episode.nodes, after, strict=True)))
      won.append(sum(paid) > success)
  through, branches = collections.defaultdict(set), collections.defaultdict(lambda: collections.defaultdict(set))
  for i, path in enumerate(paths):
    for before, turn in zip((None, *path), path, strict=False):
      branches[before][turn].add(i)
    for turn in (None, *path):
      through[turn].add(i)
  potential = {turn: sum(won[i] for i in trials) / len(trials) for turn, trials in through.items()}
  return Quotient(paths, won, potential, {turn: dict(on) for turn, on in branches.items()})


def task_score(graph: Quotient, *, mix: float = .5) -> float:
  """mix * failing / all branches + (1 - mix) * distinct / all successful chains; a ratio without a denominator is 0."""
  ways = [trials for on in graph.branches.values() if len(on) > 1 for trials in on.values()]
  failing = sum(not any(graph.success[i] for i in trials) for trials in ways)
  chains = [path for path, won in zip(graph.paths, graph.success, strict=True) if won]
  return mix * failing / max(len(ways), 1) + (1 - mix) * len(set(chains)) / max(len(chains), 1)


def sft_scores(graph: Quotient, *, weights: Mapping[str, float] | None = None, drop: float = .2) -> list[float]:
  """How much a trial teaches, to choose those to imitate; 0 for one that failed.

    score = sum of weights * (x - min) / (max - min)   over the successful trials, 0 where all x are equal
    recovery:   the highest rise of the potential after it fell by `drop` or more in one turn
    efficiency: turns of the shortest way through the graph to a success / turns of the trial
    diversity:  mean over its branches of 1 - share of the successful trials there that go on the same way

  Args:
    graph: of the task.
    weights: of 'recovery', 'efficiency', 'diversity'; None: a third each (ours).
    drop: ours.
  """
  weights = weights or dict(recovery=1 / 3, efficiency=1 / 3, diversity=1 / 3)
  good = [i for i, won in enumerate(graph.success) if won]
  won = lambda trials: len(trials.intersection(good))
  shortest = _shortest(graph)

  def recovery(path):
    phi = [graph.potential[turn] for turn in (None, *path)]
    return max((max(phi[t:]) - phi[t] for t in range(1, len(phi)) if phi[t - 1] - phi[t] >= drop), default=0.)

  def diversity(path):
    rare = [1 - won(graph.branches[a][b]) / won(set().union(*graph.branches[a].values()))
            for a, b in zip((None, *path), path, strict=False) if len(graph.branches[a]) > 1]
    return sum(rare) / max(len(rare), 1)

  parts = dict(recovery=recovery, efficiency=lambda path: shortest / len(path), diversity=diversity)
  out = [0.] * len(graph.paths)
  for name, weight in weights.items():
    x = [parts[name](graph.paths[i]) for i in good]
    for i, value in zip(good, x, strict=True):
      out[i] += weight * (value - min(x)) / (max(x) - min(x)) if max(x) > min(x) else 0.
  return out


def _shortest(graph):
  """Turns from the start to the nearest turn at which a trial succeeded."""
  goals = {path[-1] for path, won in zip(graph.paths, graph.success, strict=True) if won}
  front, seen, length = [None], {None}, 0
  while front and not goals.intersection(front):
    front, length = list(dict.fromkeys(b for a in front for b in graph.branches.get(a, {}) if b not in seen)), length + 1
    seen.update(front)
  return length
