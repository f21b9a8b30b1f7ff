"""Tool calls in the text of an action: what is one, and every way in which hostile text is none."""

import json
import time

import pytest

from rlx.calls import Call, calls

ONE = '{"name": "run_sql", "arguments": {"query": "SELECT \'<a>\' FROM t"}}'
RUN = Call('run_sql', {'query': "SELECT '<a>' FROM t"})


def tagged(*bodies):
  return '\n'.join(f'<tool_call>\n{b}\n</tool_call>' for b in bodies)


def test_calls():
  assert calls(tagged(ONE)) == [RUN] == calls('Let me see.' + tagged(ONE) + ' and') == calls(f'<tool_call>{ONE}</tool_call>')
  assert calls(tagged(ONE, '{"arguments": {}, "name": "f"}')) == [RUN, Call('f', {})]
  assert calls('') == calls('SELECT 1') == calls(ONE) == calls('</tool_call> {}') == []
  deep = {'a': [1, 2.5, -3e2, None, True, {'b': '\\"]}['}], 'é': '日本'}
  assert calls(tagged(json.dumps(dict(name='f', arguments=deep)))) == [Call('f', deep)]


def test_thoughts_hold_no_calls():
  assert calls('<think>\n' + tagged(ONE) + '\n</think>\n' + tagged('{"name": "f", "arguments": {}}')) == [Call('f', {})]
  assert calls('<think>' + tagged(ONE)) == [], 'never closed'
  assert calls(tagged(ONE) + '</think>') == [], 'begun by the template'


def test_a_call_without_tags():
  text = ' {"name": "f", "parameters": {"x": 1}} '
  assert calls(text, tags=None) == [Call('f', {'x': 1})] and calls('f(1)', tags=None) == []
  with pytest.raises(ValueError, match='the tool call is not JSON'):
    calls(text + ';', tags=None)


@pytest.mark.parametrize('body, error', [
    ('', 'is not JSON'), ('f(1)', 'is not JSON'), ("{'name': 'f', 'arguments': {}}", 'is not JSON'),
    ('[]', "must be an object with the keys 'name'"),
    ('{"name": "f"}', 'must be an object with the keys'), ('{"name": "f", "arguments": {}, "more": 1}', 'must be an object with the keys'),
    ('{"name": "f", "arguments": {}, "parameters": {}}', 'must be an object with the keys'),
    ('{"name": 5, "arguments": {}}', "'name' must be"), ('{"name": "__import__(1)", "arguments": {}}', "'name' must be"),
    ('{"name": "f\\n", "arguments": {}}', "'name' must be"), (f'{{"name": "{"f" * 65}", "arguments": {{}}}}', "'name' must be"),
    ('{"name": "f", "arguments": "{}"}', "'arguments' must be an object"), ('{"name": "f", "arguments": null}', "'arguments' must be"),
    ('{"name": "f", "name": "g", "arguments": {}}', 'a key stands twice'),
    ('{"name": "f", "arguments": {"x": 1, "x": 2}}', 'a key stands twice'),
    ('{"name": "f", "arguments": {"x": NaN}}', 'NaN is no JSON number'),
    ('{"name": "f", "arguments": {"x": -Infinity}}', 'is no JSON number'),
    ('{"name": "f", "arguments": {"x": 1e999}}', 'is too large'), ('{"name": "f", "arguments": {"x": ' + '1' * 9999 + '}}', 'is not JSON'),
    ('{"name": "f", "arguments": {"x": "\\ud800"}}', 'characters that do not exist'),
    ('{"name": "f", "arguments": {"\\udfff": 1}}', 'do not exist'),
    ('{"name": "f", "arguments": {"x": ' + '[' * 40 + ']' * 40 + '}}', 'nested more than 16 deep'), ('[' * 60000, 'nested more than 16'),
    ('{"x":' * 10000, 'nested more than 16'), ('"' + 'x' * 70000 + '"', 'more than 65536 characters'), (ONE + ONE, 'is not JSON'),
    ('<tool_call>' + ONE, 'is not JSON')])
def test_what_is_no_call(body, error):
  with pytest.raises(ValueError, match=f'tool call 2:? .*{error}') as e:
    calls(tagged(ONE, body))
  assert len(str(e.value)) < 200, 'it can be shown to the model'


def test_too_many_and_not_closed():
  assert len(calls(tagged(*[ONE] * 8))) == 8
  with pytest.raises(ValueError, match='there are more than 8 tool calls'):
    calls(tagged(*[ONE] * 9))
  for text in ('<tool_call>', '<tool_call>' + ONE, tagged(ONE) + '<tool_call>' + ONE + '</tool_cal'):
    with pytest.raises(ValueError, match='is not closed: </tool_call> is missing'):
      calls(text)


@pytest.mark.parametrize('body', [
    '"\\' * 32000, '\\"' * 32000, '"' * 65000, '[' * 65000, '[]' * 32000, '<tool_call>' * 5000, '{"a":' * 13000, '-' * 65000])
def test_hostile_text_costs_no_more_than_its_length(body):
  began = time.process_time()
  for text in (tagged(body), '<tool_call>' * 100000, body * 10, '<think>' * 50000 + body):
    try:
      calls(text)
    except ValueError:
      pass
  assert time.process_time() - began < .5
