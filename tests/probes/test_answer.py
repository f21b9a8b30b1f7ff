"""The log-probability of the right answer below the question and below every step that goes on, against a plain call of the policy."""

import functools
from typing import NamedTuple

import numpy as np
import pytest

from rlx import walk
from rlx.contexts.window import window
from rlx.explorers.flat import flat
from rlx.grow import engine as engines
from rlx.probes.answer import answer
from rlx.types import Expand, Probe, Task
from tests.grow import game
from tests.grow.game import Game, grow, scripted

LONG = Game(words=('dcbadcba', 'abdc', 'cbadcbad'))      # 'dcbadcba:' has 9 ids, ' 8.' and the answers ' 0.' 3
NEVER = engines.Stop()


def behind(g, i):
  """Ids behind step i as the next turn would see them: here every action has 8 ids, so every observation is ' 8.'."""
  return [*walk.ids_before(g.nodes, i), *g.nodes[i].ids, *game.TOK.encode(' 8.')]


def by_hand(context, text, before='', temperature=1.):
  forced, scored = list(game.TOK.encode(before)) if before else [], list(game.TOK.encode(text))
  return game.logp_by_hand([*context, *forced, *scored], temperature=temperature)[-len(scored):]


@pytest.mark.parametrize('before', ['', ' <'])
@pytest.mark.parametrize('reduce', ['mean_logp', 'sum_logp'])
def test_values_by_hand(before, reduce):
  groups = grow(game.engine(NEVER), n=2, env=LONG, probes=(functools.partial(answer, before=before, reduce=reduce),))
  total = dict(mean_logp=np.mean, sum_logp=np.sum)[reduce]
  for i, g in enumerate(groups):
    assert [sorted(n.value) for n in g.nodes] == [['p_answer']] * 4 + [[]] * 2, 'not below a step that has ended'
    for k in range(4):
      assert abs(g.nodes[k].value['p_answer'] - total(by_hand(behind(g, k), f' {i}.', before))) < 1e-4
    assert abs(g.prompt['p_answer'] - total(by_hand(g.nodes[0].context, f' {i}.', before))) < 1e-4
    assert len({n.value['p_answer'] for n in g.nodes[:4]}) > 2
  n = game.packed(groups).batch
  assert n.nodes.value['p_answer'][0] == np.float32(groups[0].nodes[0].value['p_answer'])
  assert n.prompt['p_answer'][1] == np.float32(groups[1].prompt['p_answer'])


def test_probes_run_on_the_warm_cache():
  """One episode reads 9 + 3 + 3. The probes: the prompt's last id again and 3; behind steps 0 and 1 the observation is warm, so its
  last id again and 3: 12 more."""
  e = game.engine(NEVER)
  grow(e, n=1, env=LONG, explorer=flat(width=1), probes=(answer,))
  assert e.read == 15 + 3 * (1 + 3)
  assert engines.vacant(e) == 16


def test_an_abandoned_step_is_probed_behind_its_observation():
  e = game.engine(NEVER)
  g, = grow(e, n=1, env=LONG, explorer=scripted([Expand(limit=1)]), probes=(answer,))
  assert abs(g.nodes[0].value['p_answer'] - by_hand(behind(g, 0), ' 0.').mean()) < 1e-4
  assert e.read == 9 + (1 + 3) + (3 + 3), 'the observation had not been read'


def test_the_question_is_shown_as_the_context_shows_it():
  header = functools.partial(window, k=1, header='<<{prompt}')
  g, = grow(game.engine(NEVER), n=1, env=LONG, explorer=flat(width=1), context=header, probes=(answer,))
  shown = list(game.TOK.encode('<<dcbadcba:'))
  assert g.nodes[0].context == shown and abs(g.prompt['p_answer'] - by_hand(shown, ' 0.').mean()) < 1e-4
  # below step 1 the next turn would see the header, observation 1, action 1 and observation 2
  eight = list(game.TOK.encode(' 8.'))
  assert abs(g.nodes[1].value['p_answer'] - by_hand([*shown, *eight, *g.nodes[1].ids, *eight], ' 0.').mean()) < 1e-4


def test_few_slots_and_paths_of_other_prompts_do_not_matter():
  """Four slots, three of them held by others when the first prompt is probed."""
  whole = grow(game.engine(NEVER), n=3, env=LONG, explorer=flat(width=3), probes=(answer,))
  few = grow(game.engine(NEVER, slots=4, buckets=()), n=3, env=LONG, explorer=flat(width=3), probes=(answer,))
  for a, b in zip(whole, few, strict=True):
    assert abs(a.prompt['p_answer'] - b.prompt['p_answer']) < 1e-5
  ours, theirs = game.spoken(whole), game.spoken(few)
  for k, n in ours.items():
    assert n.value.keys() == theirs[k].value.keys() and n.ids == theirs[k].ids
    np.testing.assert_allclose(list(n.value.values()), list(theirs[k].value.values()), atol=1e-5)


def ask(**kw):
  return lambda view: [Probe(**{**dict(node=-1, name='p', suffix=' 0.'), **kw})]


def test_samples_by_hand():
  """Six continuations of at most 4 ids of '<' below the question: the mean over them of the mean log-probability, and of the entropy."""
  said, speak = [], engines.speak
  def listen(engine, requests):
    out = speak(engine, requests)
    said.extend((list(r.context), s.ids) for r, s in zip(requests, out, strict=True) if r.room == 4)
    return out
  engines.speak = listen
  try:
    g, = grow(game.engine(NEVER, slots=4, buckets=()), n=1, env=LONG, sampling=dict(temperature=.7),
              probes=(ask(suffix='<', samples=6, limit=4), ask(suffix='<', name='h', samples=6, limit=4, reduce='mean_entropy')))
  finally:
    engines.speak = speak
  start = [*g.nodes[0].context, *game.TOK.encode('<')]
  assert len(said) == 12 and all(c == start and len(ids) == 4 for c, ids in said) and len({tuple(ids) for _, ids in said}) > 6
  logp = [game.logp_by_hand([*start, *ids], temperature=.7)[-4:].mean() for _, ids in said[:6]]
  assert abs(g.prompt['p'] - np.mean(logp)) < 1e-4
  rows = [game.logits_by_hand([*start, *ids], temperature=.7)[len(start) - 1:-1] for _, ids in said[6:]]
  assert abs(g.prompt['h'] - np.mean([-(np.exp(r) * r).sum(1).mean() for r in rows])) < 1e-4
  plain, = grow(game.engine(NEVER, slots=4, buckets=()), n=1, env=LONG, sampling=dict(temperature=.7))
  assert [n.ids for n in plain.nodes] == [n.ids for n in g.nodes], 'probes change nothing that is grown'


def test_a_reduction_may_be_a_function():
  """Of the log-probabilities and, of samples, the entropies: each call is reduced by itself, then the mean over samples is taken."""
  heard = []
  def confidence(logp, entropy):
    heard.append((np.asarray(logp), entropy))
    return float(np.exp(-np.mean(entropy)))
  g, = grow(game.engine(NEVER), n=1, env=LONG, probes=(
      ask(name='c', suffix='<', samples=3, limit=4, reduce=confidence), ask(reduce=lambda logp, entropy: float(np.exp(logp).mean()))))
  assert len(heard) == 3 and all(len(l) == len(h) == 4 for l, h in heard)
  assert abs(g.prompt['c'] - np.mean([np.exp(-h.mean()) for _, h in heard])) < 1e-6
  assert abs(g.prompt['p'] - np.exp(by_hand(g.nodes[0].context, ' 0.')).mean()) < 1e-4
  with pytest.raises(ValueError, match="'p' gave inf"):
    grow(n=1, probes=(ask(reduce=lambda logp, entropy: np.inf),))


def test_what_is_scored_begins_at_a_character():
  """'d' of ' <cd': alone it is another id than in 'cd', so the text is encoded in two parts."""
  g, = grow(game.engine(NEVER), n=1, env=LONG, probes=(ask(suffix=' <cd', score_from=3), ask(name='nothing', suffix='cd', score_from=2)))
  assert abs(g.prompt['p'] - by_hand(g.nodes[0].context, 'd', ' <c')[0]) < 1e-4
  assert g.prompt['nothing'] == 0, 'of nothing one is certain'


def test_a_probe_that_does_not_fit_has_gained_nothing_and_is_counted():
  """Slots of 40: behind steps 0, 1 and 2 stand 20, 31 and 39 ids (2 has ended), so 10 more fit twice and 5 ids behind 39 never."""
  probes = (lambda view: [Probe(node=i, name='p', suffix='<' * 10) for i in (0, 1)] + [Probe(node=2, name='p', suffix='<' * 5)],)
  g, = grow(game.engine(NEVER, width=40), n=1, env=Game(turns=6, words=LONG.words), explorer=flat(width=1), probes=probes)
  assert [n.end for n in g.nodes] == [0, 0, 2] and len({n.value['p'] for n in g.nodes}) == 1 and g.nodes[0].value['p'] < 0
  assert g.metrics == {'full': 1., 'probes_full': 2.}
  alone, = grow(game.engine(NEVER, width=40), n=1, env=Game(turns=6, words=LONG.words), explorer=flat(width=1),
                probes=(lambda view: [Probe(node=1, name='p', suffix='<' * 10), Probe(node=-1, name='q', suffix='<')],))
  assert [n.value for n in alone.nodes] == [{}, {}, {}] and set(alone.prompt) == {'q'}, 'nothing stands before it'


@pytest.mark.parametrize('probe, message', [
    (ask(node=7), "the probe 'p' asks about step 7; the tree has 6"),
    (ask(reduce='median'), "reduce='median'; there are .*mean_logp"),
    (ask(reduce='mean_entropy'), "'mean_entropy' needs samples")])
def test_a_probe_that_cannot_be_is_an_error(probe, message):
  with pytest.raises(ValueError, match=message):
    grow(n=1, probes=(probe,))


def test_the_answer_is_a_field_or_a_key():
  class Data(NamedTuple):
    word: str
    solution: str
  view = lambda data: type('View', (), dict(task=Task('t9', data), nodes=[]))
  assert answer(view(Data('ab', 'cd')), key='solution', before='<')[0] == Probe(node=-1, name='p_answer', suffix='<cd', score_from=1)
  assert answer(view(dict(answer=4)))[0].suffix == '4'
  with pytest.raises(ValueError, match="task 't9' has none"):
    answer(view(Data('ab', 'cd')))
