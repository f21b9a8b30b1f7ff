"""Chat templates against `transformers`, and the rows that grow along them."""

import json
import random

import pytest

from rlx.contexts.append import append
from rlx.contexts.chat import chat
from rlx.contexts.window import window
from rlx.grow import chat as chats
from rlx.grow import tokenizer as toks
from rlx.types import Message, Said, Task, Turn, Variables
from tests.grow import talk

TASK = Task('t')
FAMILIES = ('smollm2', 'qwen2_5', 'qwen3', 'llama3')
TOOL = dict(type='function', function=dict(name='run_sql', description='<a> & "b"', parameters=dict(type='object', properties={})))


def show(name, **kw):
  bos, eos = talk.MADE['tokens'][name]
  return chats.template(talk.source(name), values=dict(bos_token=bos, eos_token=eos), **{'date': talk.MADE['date'], **kw})


def history(*texts) -> list[Turn]:
  """Observations and actions in turn."""
  return [Turn(*texts[i:i + 2]) for i in range(0, len(texts), 2)]


def whole(name, parts, said, own, **values) -> str:
  """The template's rendering of a context: the definition."""
  texts = [own.decode(toks.body(i, own)) for i in said]
  messages = [(p.role, texts[p.content.step] if isinstance(p.content, Said) else p.content) for p in parts if isinstance(p, Message)]
  return show(name)(messages, values)


# ---- templates ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name', talk.MADE['tokens'])
def test_renderings_are_those_of_transformers(name):
  """Golden: tests/golden/chat.py, transformers 5.23.0."""
  mine, seen = show(name), 0
  for one in (r for r in talk.MADE['renderings'] if r['template'] == name):
    messages = [tuple(m) for m in one['messages']]
    if one['error']:
      with pytest.raises(ValueError, match='refuses message') as e:
        mine(messages, one['values'], one['generate'])
      assert one['error'] in str(e.value)
    else:
      assert mine(messages, one['values'], one['generate']) == one['text'], one['case']
      seen += 1
  assert seen >= 9


@pytest.mark.parametrize('name', FAMILIES)
def test_a_context_begins_with_what_transformers_would_show(name):
  """One message, system, tools: the ids decode to the golden text."""
  own = talk.tok(name)
  for one in (r for r in talk.MADE['renderings'] if r['template'] == name and r['case'] in ('one', 'system', 'tools', 'not thinking')):
    values = one['values']
    parts = [Variables(values)] * bool(values) + [Message(*m) for m in one['messages']]
    if name == 'smollm2' and values or name != 'qwen3' and 'enable_thinking' in values:
      with pytest.raises(ValueError, match=f'takes no notice of `{next(iter(values))}`'):
        toks.render(parts, [], own)
    else:
      assert own.decode(toks.render(parts, [], own)) == one['text']


def test_the_date_of_a_template_is_fixed(tmp_path):
  talk.write(tmp_path, 'llama3')
  day = lambda **kw: toks.pretrained(path=str(tmp_path), **kw).decode(toks.pretrained(path=str(tmp_path), **kw).turn('q', True))
  assert 'Today Date: 26 Jul 2024\n' in day() and 'Today Date: 01 Feb 2025\n' in day(date='2025-02-01')
  for wrong in ('tomorrow', '2025-13-01', 5):
    with pytest.raises(ValueError, match="the date of a chat template is written as '2024-07-26'"):
      day(date=wrong)


@pytest.mark.parametrize('text', [
    "{{ messages.__class__.__mro__ }}", "{{ ''.__class__.__base__.__subclasses__() }}", "{{ cycler.__init__.__globals__.os }}",
    "{{ messages.append(1) }}", "{{ dict.mro() }}", "{% set n = namespace(_x=1) %}", "{% set n = namespace() %}{% set n._x = 1 %}",
    "{{ range(10 ** 9) | list }}", "{{ lipsum() }}", "{{ strftime_now.__self__ }}{{ strftime_now.__func__.x }}"])
def test_a_template_is_not_trusted(text):
  with pytest.raises(ValueError, match="refuses message 1, of role 'user'"):
    chats.template(text)([('user', 'q')])


@pytest.mark.parametrize('text, error', [('{% if %}', 'line 1'), ('a\n{% for x in y %}', 'line 2'), ('{{ [1] | random }}', "'random'")])
def test_a_text_that_is_no_template(text, error):
  with pytest.raises(ValueError, match=f'the chat template cannot be read, .*{error}'):
    chats.template(text)


def test_a_template_may_do_what_those_of_transformers_do():
  text = ("{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{% set n = namespace(self=3) %}{% set n.x = 2 %}"
          "{% generation %}{{ m.content }}{% set m = 5 %}{% endgeneration %}{{ n.x }}{{ m.role }}{{ dict(a='<&é') | tojson }}\n"
          "    {% if true %}\n  b{% endif %}\n{% endfor %}")
  assert chats.template(text)([('user', 'q'), ('assistant', 'a')]) == 'q2user{"a": "<&é"}\n  b'


def test_the_role_that_is_refused_is_named():
  """Two observations without an action between them, as a window shows them, are two messages of the user."""
  own = talk.tok('alternating')
  assert own.decode(own.turn('q', True)) == '<bos><start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\n'
  turns = history('q', 'a', 'o', 'b', 'p')
  with pytest.raises(ValueError, match=r"refuses message 2, of role 'user' \(the roles are user, user\): Conversation roles must"):
    toks.render(window(turns, TASK, k=1), [(), own.encode('b')], own)
  with pytest.raises(ValueError, match="refuses message 1, of role 'system'"):
    toks.render(chat(history('q'), TASK, system='s'), [], own)
  with pytest.raises(ValueError, match="refuses message 3, of role 'tool'"):
    toks.render(chat(history('q', 'a', 'o'), TASK, observation_role='tool'), [own.encode('a')], own)
  with pytest.raises(ValueError, match='refuses a conversation that begins with an action'):
    toks.render([Said(0), 'q'], [(1,)], talk.tok('qwen2_5'))


# ---- the end of a turn ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('name, eos, ends', [
    ('qwen2_5', '<|im_end|>', ['<|im_end|>']), ('qwen2_5', '<|endoftext|>', ['<|im_end|>', '<|endoftext|>']),
    ('llama3', None, ['<|eot_id|>']),
    ('alternating', '<eos>', ['<end_of_turn>', '<eos>']), ('{{ messages }}', '<eos>', ['<eos>']),
    ("{{ raise_exception('no') }}", '<eos>', ['<eos>']), ('{% for m in messages %}{{ m.content }}\n{% endfor %}', None, [])])
def test_what_ends_a_turn(name, eos, ends):
  own = talk.tok('qwen3')
  text = name if '{' in name else talk.source(name)
  assert chats.ends(chats.template(text, values=dict(bos_token='')), own.special, eos) == tuple(own.special[t] for t in ends)


@pytest.mark.parametrize('ids, more', [(['<|endoftext|>', '<|im_end|>'], ['<|endoftext|>']), ('<|endoftext|>', ['<|endoftext|>']), ([], []), (None, [])])
def test_what_the_model_is_generated_with_ends_a_turn_too(tmp_path, ids, more):
  """Llama 3 ends a call of a tool with a token that only generation_config.json names."""
  path, special = talk.write(tmp_path / 'm', 'qwen3'), talk.tok('qwen3').special
  number = lambda x: [special[t] for t in x] if isinstance(x, list) else special.get(x)
  (tmp_path / 'm' / 'generation_config.json').write_text(json.dumps(dict(eos_token_id=number(ids), temperature=.6)))
  own = toks.pretrained(path=path)
  assert own.ends == tuple(special[t] for t in ('<|im_end|>', *more))
  (tmp_path / 'kept').mkdir()
  own.save(str(tmp_path / 'kept' / 'tokenizer.json'))
  again = toks.pretrained(path=str(tmp_path / 'kept'))
  assert again.ends == own.ends and toks.pretrained(path=str(tmp_path / 'kept'), template=None).ends


def test_an_end_that_is_no_token(tmp_path):
  talk.write(tmp_path, 'qwen3')
  (tmp_path / 'tokenizer_config.json').write_text('{"eos_token": "<|nothing|>"}')
  with pytest.raises(ValueError, match=r"eos_token '<\|nothing\|>' of the tokenizer's config is not among its added tokens"):
    toks.pretrained(path=str(tmp_path))


@pytest.mark.parametrize('name', FAMILIES)
def test_what_the_template_writes_behind_an_action_is_not_doubled(name):
  """Sampled with its end, or cut off: the text of the row is the same, and so is every id of it but who wrote the end."""
  own = talk.tok(name)
  said, end = own.encode('ab cd'), own.ends[0]
  rows = [toks.render(append(history('q', 'a', 'o'), TASK), [ids], own) for ids in (said, (*said, end))]
  assert rows[0] == rows[1] and rows[0].count(end) == own.decode(rows[0]).count(own.decode([end]))
  assert own.decode(rows[0]) == whole(name, chat(history('q', 'a', 'o'), TASK), [said], own)
  start = len(toks.render(append(history('q'), TASK), [], own))
  assert tuple(rows[0][start:start + len(said) + 1]) == (*said, end)
  assert tuple(rows[0][start + len(said) + 1:]) == own.turn('o', False), 'the delta'
  assert tuple(rows[0][:start]) == own.turn('q', True)


def test_an_end_of_another_kind_starts_a_row():
  """`<|endoftext|>` where the template writes `<|im_end|>`: the row as it was said is not what the template shows."""
  own = talk.tok('qwen2_5')
  own = own._replace(chat=chats.rows(show('qwen2_5'), own.encode, own.decode, (*own.ends, own.special['<|endoftext|>'])))
  begun, other = toks.render(['q'], [], own), (*own.encode('ab'), own.special['<|endoftext|>'])
  row = toks.render(['q', Said(0), 'o'], [other], own)
  assert row[:len(begun)] == begun and row[:len(begun) + 3] != [*begun, *other][:len(begun) + 3]
  assert own.decode(row) == show('qwen2_5')([('user', 'q'), ('assistant', 'ab'), ('user', 'o')])


# ---- rows ------------------------------------------------------------------------------------------------------------------

def random_action(rng, own):
  """Any ids: bytes that make no character, special tokens in the middle; ended or cut off."""
  ids = [rng.randrange(own.size) for _ in range(rng.randrange(6))]
  return tuple(i for i in ids if i not in own.ends) + own.ends[:rng.randrange(2)]


@pytest.mark.parametrize('name', FAMILIES)
@pytest.mark.parametrize('seed', range(4))
def test_a_row_is_the_rendering_and_repeats_what_was_sampled(name, seed):
  """Random episodes: the ids decode to the template's rendering; each context continues the row, sampled ids and all, unless the
  rendering does not go on from the row's text."""
  own, rng = talk.tok(name), random.Random(seed)
  obs = lambda: rng.choice(['', ' 3 rows\n', '日本 é', '\n\n', '<|im_start|>user\n', ' ok ', 'x' * 40])
  said, turns, row, new = [], [Turn(obs())], None, 0
  for _ in range(12):
    parts = chat(turns, TASK)
    ids = toks.render(parts, said, own)
    assert own.decode(ids) == whole(name, parts, said, own)
    assert ids == toks.render(append(turns, TASK), said, own), 'append is the conversation of a user'
    goes_on = row is not None and own.decode(ids).startswith(own.decode(row))
    assert row is None or (ids[:len(row)] == row) == goes_on
    new += not goes_on
    said.append(random_action(rng, own))
    row = [*ids, *said[-1]]
    turns = [*turns[:-1], Turn(turns[-1].obs, own.decode(toks.body(said[-1], own))), Turn(obs())]
  assert new == 1 if name in ('smollm2', 'qwen2_5') else new <= 12
  assert toks.render(chat(turns, TASK), said, talk.tok(name)) == toks.render(chat(turns, TASK), said, own), 'remembered or not'


def thought(own, i, text):
  return own.encode(f'<think>\nabout {i}\n</think>\n\n{text}') + own.ends[:1]


@pytest.mark.parametrize('role, rows', [('user', 3), ('tool', 1)])
def test_thoughts_are_dropped_by_a_new_message_of_the_user(role, rows):
  """Qwen3 keeps them as long as only tools answer."""
  own = talk.tok('qwen3')
  said = [thought(own, i, 'ab') for i in range(2)]
  contexts = [toks.render(chat(history(*'qaoap'[:n]), TASK, observation_role=role), said[:n // 2], own) for n in (1, 3, 5)]
  begun = [own.decode(c) for c in contexts]
  fresh = [True] + [b[:len(a) + len(s)] != [*a, *s] for a, s, b in zip(contexts, said, contexts[1:])]
  assert sum(fresh) == rows
  assert [t.count('about') for t in begun] == ([0, 0, 0] if role == 'user' else [0, 1, 2])
  assert begun[2] == whole('qwen3', chat(history(*'qaoap'), TASK, observation_role=role), said, own)


@pytest.mark.parametrize('role', ['user', 'tool'])
def test_an_empty_thought_of_the_template_is_taken_back(role):
  """Qwen3 without thinking: written before the action, and not in the history; a row a turn, whoever answers."""
  own = talk.tok('qwen3')
  said = [own.encode('ab') + own.ends] * 2
  context = lambda n: chat(history(*'qaoap'[:n]), TASK, observation_role=role, thinking=False)
  a, b, c = (toks.render(context(n), said[:n // 2], own) for n in (1, 3, 5))
  assert b[:len(a) + 3] != [*a, *said[0]] and c[:len(b) + 3] != [*b, *said[0]]
  assert [own.decode(x).count('<think>') for x in (a, b, c)] == [1, 1, 1]


@pytest.mark.parametrize('thinking, end', [(True, 'assistant\n'), (None, 'assistant\n'), (False, '<think>\n\n</think>\n\n')])
def test_a_switch_for_thoughts(thinking, end):
  own = talk.tok('qwen3')
  assert own.decode(toks.render(chat(history('q'), TASK, thinking=thinking), [], own)).endswith(end)


@pytest.mark.parametrize('action, fresh', [('ab', False), (' ab', True), ('ab\n', True), ('a  b', False)])
def test_a_template_that_trims_starts_a_row_only_where_it_does(action, fresh):
  own = talk.tok('llama3')
  said = [own.encode(action) + own.ends]
  one, two = (toks.render(append(history(*'qao'[:n]), TASK), said, own) for n in (1, 3))
  assert (two[:len(one) + len(said[0])] != [*one, *said[0]]) == fresh


def test_tools_and_a_system_message():
  own = talk.tok('qwen2_5')
  text = own.decode(toks.render(chat(history('q'), TASK, system='Be short.', tools=(TOOL,)), [], own))
  assert text.startswith('<|im_start|>system\nBe short.\n\n# Tools') and '"description": "<a> & \\"b\\""' in text
  assert 'You are Qwen' not in text and 'You are Qwen' in own.decode(own.turn('q', True))
  silent = own.decode(toks.render(chat(history('q'), TASK, system=''), [], own))
  assert silent.startswith('<|im_start|>system\n<|im_end|>\n<|im_start|>user'), 'an empty one is not the default'


def test_messages_may_be_written():
  """Examples shown before the question are text, never actions."""
  own = talk.tok('qwen2_5')
  parts = [Message('user', '1+1'), Message('assistant', '2'), 'q', Said(0), 'o']
  ids = toks.render(parts, [(9, 9)], own)
  said = [('user', '1+1'), ('assistant', '2'), ('user', 'q'), ('assistant', own.decode([9, 9])), ('user', 'o')]
  assert own.decode(ids) == show('qwen2_5')(said)


def test_an_episode_is_rendered_once_a_turn():
  """And not once for each pair of turns; paths that share their beginning share what was rendered of it."""
  rendered, encoded = [], []
  plain, own = show('qwen2_5'), talk.tok('qwen2_5')
  def counted(messages, *a, **kw):
    rendered.append(len(messages))
    return plain(messages, *a, **kw)
  render = chats.rows(counted, lambda t: encoded.append(t) or own.encode(t), own.decode, own.ends)
  for path in 'ab':
    said = []
    for n in range(20):
      render([x for i in range(n) for x in (f'o{i}', Said(i))] + [f'o{n}'], said)
      said.append(own.encode(path if n > 9 else 'x'))
  assert len(rendered) == 20 + 9 and len(encoded) == 29
  assert sum(map(len, encoded)) < 29 * 90, 'only what is new is encoded'


def test_memory_is_bounded():
  own = talk.tok('qwen2_5')
  render = chats.rows(show('qwen2_5'), own.encode, own.decode, own.ends, kept=3)
  texts = [f'q{i}' for i in range(9)]
  first = [render([t], []) for t in texts]
  assert [render([t], []) for t in texts] == first == [toks.render([t], [], own) for t in texts]


# ---- tokenizers ------------------------------------------------------------------------------------------------------------

def test_a_tokenizer_without_a_template_is_plain(tmp_path):
  for own in (talk.tok(None), talk.tok('qwen3', template=None)):
    assert own.chat is None and own.turn('ab', True) == own.encode('ab') and own.ends == (own.special['<|im_end|>'],)
    assert toks.render(['q', Said(0), 'o'], [(7, 8)], own) == [*own.encode('q'), 7, 8, *own.encode('o')]
    with pytest.raises(ValueError, match='this context speaks in messages, and the tokenizer has no chat template'):
      toks.render(chat(history('q'), TASK), [], own)
  talk.write(tmp_path, None, add_bos_token=True)
  own = toks.pretrained(path=str(tmp_path))
  assert own.turn('ab', True) == (own.special['<|endoftext|>'], *own.encode('ab')) and own.turn('ab', False) == own.encode('ab')


def test_a_template_of_ones_own(tmp_path):
  text = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
  (tmp_path / 'mine.jinja').write_text(text)
  for given in (text, str(tmp_path / 'mine.jinja')):
    own = talk.tok('qwen3', template=given)
    assert own.decode(own.turn('q', True)) == '[user] q\n'
  with pytest.raises(FileNotFoundError):
    talk.tok('qwen3', template=str(tmp_path / 'nowhere.jinja'))


def test_a_config_may_hold_the_template(tmp_path):
  both = [dict(name='tool_use', template='no'), dict(name='default', template='{{ messages[0].content }}!')]
  for i, held in enumerate([both, both[1]['template']]):
    own = toks.pretrained(path=talk.write(tmp_path / str(i), None, chat_template=held))
    assert own.decode(own.turn('q', True)) == 'q!'
  with pytest.raises(ValueError, match=r"are called \['tool_use'\], none 'default'"):
    toks.pretrained(path=talk.write(tmp_path / 'x', None, chat_template=both[:1]))


@pytest.mark.parametrize('kw', [
    {}, dict(template=None), dict(date='2025-02-01'), dict(template='{{ strftime_now("%Y") }}{{ messages[0].content }}')])
def test_a_saved_tokenizer_comes_back(tmp_path, kw):
  own = toks.pretrained(path=talk.write(tmp_path / 'a', 'llama3'), **kw)
  (tmp_path / 'b').mkdir()
  own.save(str(tmp_path / 'b' / 'tokenizer.json'))
  back = toks.pretrained(path=str(tmp_path / 'b'))
  assert (back.ends, back.size, back.special, back.chat is None) == (own.ends, own.size, own.special, own.chat is None)
  assert back.turn('q é', True) == own.turn('q é', True)
  assert sorted(p.name for p in (tmp_path / 'b').iterdir()) == ['tokenizer.json', 'tokenizer_config.json']


def test_folders_that_are_none(tmp_path):
  with pytest.raises(ValueError, match='has no tokenizer.json'):
    toks.pretrained(path=str(tmp_path))
  (tmp_path / 'tokenizer.json').write_text('[]')
  with pytest.raises(ValueError, match='the tokenizer of .* cannot be read'):
    toks.pretrained(path=str(tmp_path))


def test_a_vocabulary_larger_than_the_tokenizer():
  own = talk.tok('qwen3')
  ids = [own.encode('a')[0], own.size + 7, 10**9, own.encode('b')[0]]
  assert own.decode(ids) == 'ab' and own.decode_batch([[own.size]]) == ['']
  assert own.offsets(ids) == ('ab', [(0, 1), (1, 1), (1, 1), (1, 2)])


def test_a_file_that_truncates_does_not(tmp_path):
  inner = talk.tokenizers.Tokenizer.from_str(talk._json(False))
  inner.enable_truncation(4)
  inner.enable_padding(length=8)
  folder = talk.write(tmp_path)
  inner.save(str(tmp_path / 'tokenizer.json'))
  for own in (toks.pretrained(path=folder), toks.file(path=str(tmp_path / 'tokenizer.json'))):
    assert len(own.encode('z' * 30)) == 30


def test_what_was_written_ends_its_turn():
  own, plain = talk.tok('qwen3'), talk.tok(None)
  assert toks.shown('ab', own) == [*own.encode('ab'), *own.ends] == toks.shown('ab<|im_end|>', own)
  assert toks.shown('ab', plain) == list(plain.encode('ab'))
  assert toks.body(toks.shown('ab', own), own) == list(own.encode('ab')) and toks.body((), own) == ()
