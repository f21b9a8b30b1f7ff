"""Rollouts, demonstrations and runs with a chat template: what is trained is what was sampled, whatever the template does.

The game of tests/grow/game.py, spoken by a policy of its own vocabulary. TRIMS writes what was said without the spaces around it, as
Llama 3's does, so an action that begins or ends with one is rewritten.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlx import assemble, config, session, train, walk
from rlx.config import ConfigError
from rlx.contexts.append import append
from rlx.contexts.chat import chat
from rlx.explorers.flat import flat
from rlx.grow import chat as chats
from rlx.grow import demonstrations, forest, sources
from rlx.grow import engine as engines
from rlx.grow import tokenizer as toks
from rlx.learn import pack, rows
from rlx.learn.forward import forward
from rlx.types import Expand, Step, Task, Turn
from tests.grow import game, talk

TRIMS = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{{ m.content | trim if m.role == 'assistant' else m.content }}"
         "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
PLAIN = TRIMS.replace('m.content | trim', 'm.content')
BUCKET = pack.Bucket(rows=40, width=160, nodes=192, prompts=16)
END = talk.SPECIAL.index('<|im_end|>')


class Talk(game.Game):
  """The game; the environment sees what was said, not the token that ended the turn."""
  heard = []

  def step(self, state, action):
    self.heard.append((action.text, tuple(action.ids)))
    word, turn = state
    end = int(turn + 1 == self.turns)
    return (word, turn + 1), Step('' if end else f'{len(action.ids) % 10}.', {'task': float(len(action.ids))}, end)

  def expert(self, task, seed):
    for i in range(self.turns):
      yield f'ab{i} '


def grow(own, n=4, pool=None, **kw):
  kw = dict(env=Talk(), context=chat, **kw)
  return game.grow(talk.engine(own) if pool is None else pool, n=n, **kw)


def packed(groups):
  made, = pack.pack([forest.cut(g) for g in groups], rows=rows.paths, buckets=[BUCKET], streams=('entropy', 'sampler_logp'))
  assert not made.dropped
  return made.batch.tokens


@functools.cache
def _forward():
  return jax.jit(lambda p, tokens: forward(talk.POLICY, p, tokens, temperature=jnp.float32(1)))


def shown(own, g, i):
  """(the conversation before step i as the template renders it, as the model read it)."""
  steps = walk.path(g.nodes, i)
  turns = [Turn(g.nodes[s].obs, g.nodes[s].text) for s in steps[:-1]] + [Turn(g.nodes[i].obs)]
  messages = [m for t in turns for m in (('user', t.obs), ('assistant', t.text)) if m[1] is not None]
  return chats.template(own)(messages), walk.ids_before(g.nodes, i)


@pytest.mark.parametrize('trims', [False, True])
@pytest.mark.parametrize('context', [append, chat])
def test_every_trained_id_was_drawn_and_rows_start_where_the_template_rewrote(trims, context, monkeypatch):
  """The ids that the sampler said are those of the steps and of the loss mask; nothing else is trained. The contexts decode to the
  template's rendering. A step is `fresh` just where the action before it was rewritten."""
  said, speak = [], engines.speak

  def listen(engine, requests):
    out = speak(engine, requests)
    said.extend(tuple(s.ids) for s in out)
    return out
  monkeypatch.setattr(engines, 'speak', listen)
  source = TRIMS if trims else PLAIN
  own = talk.tok(source, small=True)
  Talk.heard.clear()
  groups = game.grow(talk.engine(own), n=6, env=Talk(), context=context, explorer=flat(width=4))
  nodes = [n for g in groups for n in g.nodes]
  assert len(nodes) == 6 * 4 * 3 and sorted(tuple(n.ids) for n in nodes) == sorted(said)
  assert sorted(Talk.heard) == sorted((n.text, tuple(n.ids)) for n in nodes)
  assert any(n.ids[-1] == END for n in nodes) and any(n.ids[-1] != END for n in nodes)
  rewritten = 0
  for g in groups:
    for i, n in enumerate(g.nodes):
      assert n.text == own.decode([x for x in n.ids if x != END]) and ('unfinished_turns' in n.metrics) == (n.ids[-1] != END)
      text, ids = shown(source, g, i)
      assert own.decode(ids) == text
      if n.parent >= 0:
        said_so_far = g.nodes[n.parent]
        assert n.fresh == (trims and said_so_far.text != said_so_far.text.strip())
        rewritten += n.fresh
  assert (rewritten > 2) == trims
  t = packed(groups)
  assert (t.mask == t.sampled).all() and sorted(t.ids[t.mask]) == sorted(x for s in said for x in s)
  out = _forward()(talk.params(), t)
  assert np.abs(np.asarray(out.logp)[t.sampled] - t.logp[t.sampled]).max() < 1e-4, 'sampler and trainer read the same rows'
  # each trained id stands behind just what it was sampled behind
  for g in groups:
    for row in rows.paths(g):
      ids = list(row.prefix)
      for k, s in enumerate(row.nodes):
        ids += g.nodes[s].context if k else []
        assert ids == walk.ids_before(g.nodes, s)
        ids += g.nodes[s].ids


def test_dropped_thoughts_start_rows_and_are_trained_once():
  """Qwen3: every action is begun with a thought (forced, so not trained); the next message of the user drops it."""
  own = talk.tok('qwen3', small=True)
  suffix = '<think>\nab\n</think>\n\n'
  forced = len(own.encode(suffix))
  think = lambda v: [Expand(node=len(v.nodes) - 1, suffix=suffix, limit=1)] if not v.nodes or not v.nodes[-1].end else []
  groups = grow(own, n=2, pool=talk.engine(own, width=200), explorer=game.scripted(*[think] * 4))
  for g in groups:
    assert [n.fresh for n in g.nodes] == [True] * 3 and [len(r.nodes) for r in rows.paths(g)] == [1, 1, 1]
    for i, n in enumerate(g.nodes):
      assert n.text.startswith(suffix) and n.sampled.tolist() == [False] * forced + [True] * (len(n.ids) - forced)
      text, ids = shown(talk.source('qwen3'), g, i)
      assert own.decode(ids) == text and '<think>\nab' not in text
    rewritten = own.decode(g.nodes[1].context)
    assert f"assistant\n{g.nodes[0].text.split('</think>')[-1].lstrip(chr(10))}<" in rewritten
  t = packed(groups)
  assert int(t.mask.sum()) == sum(int(n.sampled.sum()) for g in groups for n in g.nodes)
  kept = [x for g in groups for n in g.nodes for x in np.asarray(n.ids)[n.sampled]]
  assert sorted(t.ids[t.mask]) == sorted(kept)


@pytest.mark.parametrize('explorer', ['flat', 'forks'])
def test_slots_and_what_is_remembered_do_not_matter(explorer):
  forks = game.scripted([Expand()], [Expand(node=0, at=1, width=4), Expand(node=1, suffix='ab', width=4)])
  forked, explorer = explorer == 'forks', dict(flat=flat(width=3), forks=forks)[explorer]
  trees = []
  for slots in (4, 16):
    own = talk.tok(TRIMS, small=True)
    trees.append(grow(own, n=5, pool=talk.engine(own, slots=slots, buckets=()), explorer=explorer))
  game.assert_same(*trees)
  begun = [n for g in trees[0] for n in g.nodes if n.stem or not n.sampled.all()]
  assert bool(begun) == any(n.ids[-1] == END for n in begun) == forked
  assert all(n.text == own.decode([x for x in n.ids if x != END]) for g in trees[1] for n in g.nodes)


def test_a_window_of_a_conversation():
  """Out of room, the oldest turns are dropped, the first message stays, and a row starts."""
  own = talk.tok(PLAIN, small=True)
  of = chats.template(PLAIN)
  bare = len(own.encode(of([('user', 'dcba:')])))
  env = Talk(turns=9, words=('dcba',))
  g, = game.grow(talk.engine(own, width=bare + 60, on_full='window'), n=1, env=env, context=chat, explorer=flat(width=1))
  assert g.metrics['windowed'] >= 3 and len(g.nodes) == 9
  fresh = [i for i, n in enumerate(g.nodes) if n.fresh]
  assert fresh[0] == 0 and len(fresh) >= 3
  for i in fresh[1:]:
    ids = walk.ids_before(g.nodes, i)
    kept = next(k for k in range(1, i + 1) if own.decode(ids) == of([('user', 'dcba:')] + [
        m for n in g.nodes[k:i] for m in (('user', n.obs), ('assistant', n.text))] + [('user', g.nodes[i].obs)]))
    assert kept > 0 and len(ids) + 8 <= bare + 60
    repeated = [own.decode(n.ids) for n in g.nodes[kept:i]]
    assert all(r in own.decode(ids) for r in repeated)
    at = 0
    for n in g.nodes[kept:i]:      # by their ids
      at = next(j for j in range(at, len(ids)) if ids[j:j + len(n.ids)] == n.ids) + len(n.ids)
  t = packed([g])
  assert int(t.mask.sum()) == sum(len(n.ids) for n in g.nodes)
  assert np.abs(np.asarray(_forward()(talk.params(), t).logp)[t.sampled] - t.logp[t.sampled]).max() < 1e-4


# ---- demonstrations ----------------------------------------------------------------------------------------------------

def test_a_demonstration_shows_where_a_turn_ends():
  own = talk.tok('qwen3', small=True)
  g = demonstrations.demonstrate(Talk(), Task('t', dict(word='ab')), own, functools.partial(chat, system='user'), 0)
  assert [n.text for n in g.nodes] == ['ab0 ', 'ab1 ', 'ab2 '] and all(n.ids == [*own.encode(n.text), END] for n in g.nodes)
  assert [n.fresh for n in g.nodes] == [True, False, False] and len(rows.paths(g)) == 1
  t = packed([g])
  whole = own.decode(t.ids[0, t.segment[0] == 0].tolist())
  lines = ['system\nuser', 'user\nab:', 'assistant\nab0 ', 'user\n0.', 'assistant\nab1 ', 'user\n0.', 'assistant\nab2 ']
  assert whole == '\n'.join(f'<|im_start|>{line}<|im_end|>' for line in lines)
  assert own.decode(t.ids[t.mask]) == 'ab0 <|im_end|>ab1 <|im_end|>ab2 <|im_end|>'


def test_a_demonstration_that_the_template_rewrites():
  """The spaces behind an action are trimmed: each action is trained in a row of its own, as it was said."""
  own = talk.tok(TRIMS, small=True)
  g = demonstrations.demonstrate(Talk(), Task('t', dict(word='ab')), own, chat, 0)
  assert [n.fresh for n in g.nodes] == [True] * 3
  t = packed([g])
  assert own.decode(t.ids[t.mask]) == 'ab2 <|im_end|>ab1 <|im_end|>ab0 <|im_end|>', 'longest row first'
  assert own.decode(g.nodes[1].context) == (
      '<|im_start|>user\nab:<|im_end|>\n<|im_start|>assistant\nab0<|im_end|>\n<|im_start|>user\n0.<|im_end|>\n<|im_start|>assistant\n')


def test_a_file_in_the_context_of_the_run(tmp_path):
  own = talk.tok('qwen3', small=True)
  (tmp_path / 'a.jsonl').write_text(json.dumps(dict(prompt='ab', response='cd')))
  read = lambda **kw: next(sources.jsonl(path=str(tmp_path / 'a.jsonl'), tokenizer=own, **kw)).nodes[0]
  assert own.decode(read().context) == '<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n'
  assert own.decode(read().ids) == 'cd<|im_end|>'
  said = own.decode(read(context=functools.partial(chat, system='user', thinking=False)).context)
  assert said.startswith('<|im_start|>system\nuser<|im_end|>') and said.endswith('</think>\n\n')


# ---- runs --------------------------------------------------------------------------------------------------------------

def test_stops():
  c = config.load('tests/configs/tiny.py')
  own, plain = talk.tok('qwen3'), toks.bpe(texts=['a'], size=300, special=('<s>',))
  of = lambda tok, *given: assemble.stop(config.override(c, {'sampler.stop': given}), tok)
  assert of(own) == engines.Stop(own.ends, ()) and own.ends == (END,)
  assert of(own, '.', '</think>') == engines.Stop((own.special['</think>'], END), ('.',))
  assert of(own, '<|im_end|>') == engines.Stop((END,), ()) and of(plain) == engines.Stop() and of(plain, '<s>') == engines.Stop((1,), ())


@pytest.fixture(scope='module')
def ran(tmp_path_factory):
  """A step of RL with a chat tokenizer: (the folder of its model and its workdir, the config)."""
  root = tmp_path_factory.mktemp('chat')
  talk.write(root / 'model', 'qwen3')
  changes = {'tokenizer': dict(name='pretrained', path=str(root / 'model')), 'context': dict(name='chat', system='Add.', thinking=False),
             'sampler.stop': (), 'sampler.width': 128, 'sampler.turn': 8, 'buckets': (dict(rows=16, width=128, nodes=48, prompts=8),),
             'phases': (dict(name='rl', steps=1, source='rollout'),), 'eval.splits': {}, 'sampler.slots': 8,
             'on_policy_prompts': 2}
  c = config.load('tests/configs/tiny.py', {**changes, 'workdir': str(root / 'run')})
  list(train.iterate(c))
  return root, changes


def test_a_run_keeps_its_template(ran):
  """The folder of the model may be gone; a prompt is shown as the run's context shows it."""
  root, _ = ran
  (root / 'model').rename(root / 'gone')
  try:
    s = session.load(str(root / 'run'))
  finally:
    (root / 'gone').rename(root / 'model')
  asked, speak = [], engines.speak
  engines.speak = lambda engine, requests: asked.extend(requests) or speak(engine, requests)
  try:
    said = s.sample('1 + 2 =')
  finally:
    engines.speak = speak
  tok = s.world.tokenizer
  assert tok.decode(asked[0].context) == (
      '<|im_start|>system\nAdd.<|im_end|>\n<|im_start|>user\n1 + 2 =<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n')
  assert '<|im_end|>' not in said and s.pool['policy'].stop.ids == tok.ends
  again = assemble.tokenizer(s.config, s.plan.env, str(root / 'run'))
  assert again.turn('a', True) == tok.turn('a', True)


def test_a_run_that_begins_with_anothers_parameters_has_its_template(ran, tmp_path):
  root, changes = ran
  c = config.load('tests/configs/tiny.py', {**changes, 'workdir': str(tmp_path / 'b'), 'init_from': str(root / 'run')})
  world, _ = train.start(c, str(tmp_path / 'b'))
  assert world.tokenizer.chat and (tmp_path / 'b' / 'tokenizer_config.json').is_file()


@pytest.mark.parametrize('changes, message', [
    ({'context': 'chat', 'tokenizer': dict(name='bpe', size=300)}, "phase 'rl': this context speaks in messages, and the tokenizer has no chat"),
    ({'context.tools': (dict(name='f'),), 'tokenizer.template': TRIMS}, 'the chat template takes no notice of `tools`'),
    ({'context.observation_role': 'bot'}, "observation_role is 'user' or 'tool', not 'bot'"),
    ({'context': 'chat', 'tokenizer.template': talk.source('alternating'), 'context.system': 's'}, "refuses message 1, of role 'system'"),
    ({'tokenizer.path': 'nowhere'}, "tokenizer 'pretrained': .*'nowhere'"),
    ({'tokenizer.template': '{% if %}'}, "tokenizer 'pretrained': the chat template cannot be read")])
def test_what_a_template_refuses_is_told_before_anything_is_trained(ran, tmp_path, changes, message):
  _, usual = ran
  c = config.load('tests/configs/tiny.py', {**usual, **changes, 'workdir': str(tmp_path)})
  with pytest.raises(ConfigError, match=message):
    train.start(c, str(tmp_path))


def test_tools_of_a_config_keep_the_order_of_their_keys():
  """A config sorts the keys of what it holds; the model was tuned on the order of the schema."""
  own = talk.tok('qwen2_5')
  tools = (dict(type='function', function=dict(name='f', description='d', parameters=dict(type='object', properties={}))),)
  c = config.load('tests/configs/tiny.py', {'context': dict(name='chat', tools=tools)})
  bound = config.build('context', c.context)
  text = own.decode(toks.render(bound.call([Turn('q')], Task('t')), [], own))
  assert json.dumps(tools[0]) in text
  stored = config.revived(json.loads(json.dumps(config.plain(c))))['context']['tools']
  assert own.decode(toks.render(chat([Turn('q')], Task('t'), tools=stored), [], own)) == text
