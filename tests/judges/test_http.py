"""The judge behind an endpoint, against a real server on this machine that answers late, wrongly, and not at all."""

import asyncio
import contextlib
import http.server
import json
import logging
import socket
import sqlite3
import threading
import time

import pytest

from rlx.judges.http import http as endpoint


def said(text):
  return 200, json.dumps(dict(choices=[dict(message=dict(content=text))])).encode()


@contextlib.contextmanager
def server(answer):
  """`answer(n, question) -> (status, bytes, headers...) | seconds` for request number n; a number: so long nothing, then the connection ends."""
  asked, lock = [], threading.Lock()

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
      question = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
      with lock:
        n = len(asked)
        asked.append((self.path, dict(self.headers), question, time.monotonic()))
      got = answer(n, question)
      if isinstance(got, float):
        time.sleep(got)
        return
      status, body, *headers = got
      with contextlib.suppress(OSError):
        self.send_response(status)
        for k, v in headers:
          self.send_header(k, v)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        for at in range(0, len(body), 16):
          self.wfile.write(body[at:at + 16])
          if b'drip' in body:
            time.sleep(.1)

    def log_message(self, *args):
      pass

  httpd = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  httpd.daemon_threads = True
  threading.Thread(target=httpd.serve_forever, daemon=True).start()
  try:
    yield f'http://127.0.0.1:{httpd.server_port}/v1', asked
  finally:
    httpd.shutdown()
    httpd.server_close()


def ask(judge, *prompts, **kw):
  async def every():
    return await asyncio.gather(*(judge(p, **kw) for p in prompts))
  return asyncio.run(every())


def test_what_is_asked_and_answered(monkeypatch):
  monkeypatch.setenv('MY_KEY', 'secret')
  with server(lambda n, q: said(q['messages'][-1]['content'].upper())) as (url, asked):
    judge = endpoint(url=url + '/', model='m', key='MY_KEY', system='be fair', temperature=.5, max_tokens=7)
    assert ask(judge, 'a', 'b') == ['A', 'B']
    assert ask(judge, 'a', sample=3) == ['A']
  path, headers, question, _ = asked[-1]
  assert path == '/v1/chat/completions' and headers['Authorization'] == 'Bearer secret'
  assert question == dict(model='m', temperature=.5, max_tokens=7, seed=3,
                          messages=[dict(role='system', content='be fair'), dict(role='user', content='a')])


@pytest.mark.parametrize('wrong', [(503, b'busy'), (429, b'slow down'), (200, b'<html>'), (200, b'{"choices": []}'),
                                   (200, b'{"choices": [{"message": {"content": null}}]}'), .05], ids=str)
def test_it_asks_again(wrong):
  with server(lambda n, q: wrong if n < 2 else said('yes')) as (url, asked):
    assert ask(endpoint(url=url, model='m', wait=.02), 'x') == ['yes'] and len(asked) == 3
    first, second, third = (t for *_, t in asked)
    assert second - first > .02 and third - second > .04, 'it waits longer each time'


@pytest.mark.parametrize('answer', [lambda n, q: 2., lambda n, q: said('drip' * 40)], ids=['nothing', 'byte by byte'])
def test_too_late_is_no_answer(answer, caplog):
  with server(answer) as (url, asked), caplog.at_level(logging.WARNING, 'rlx'):
    began = time.monotonic()
    assert ask(endpoint(url=url, model='m', seconds=.3, retries=1, wait=.01), 'x') == [None]
    assert time.monotonic() - began < 1.5 and len(asked) == 2
  assert 'no verdict from' in caplog.text and 'after 2 attempts' in caplog.text


def test_nobody_there():
  with socket.socket() as s:
    s.bind(('127.0.0.1', 0))
    port = s.getsockname()[1]
  assert ask(endpoint(url=f'http://127.0.0.1:{port}', model='m', retries=1, wait=.01), 'x') == [None]


def test_retry_after_is_heard():
  with server(lambda n, q: (429, b'', ('Retry-After', '0')) if n == 0 else said('ok')) as (url, asked):
    began = time.monotonic()
    assert ask(endpoint(url=url, model='m', wait=5.), 'x') == ['ok'] and time.monotonic() - began < 2


def test_a_refusal_is_an_error_at_once():
  with server(lambda n, q: (401, b'no such key')) as (url, asked):
    with pytest.raises(ValueError, match='refused with 401: no such key'):
      ask(endpoint(url=url, model='m'), 'x')
    assert len(asked) == 1


def test_too_long_an_answer_is_none():
  with server(lambda n, q: said('a' * 5000)) as (url, _):
    assert ask(endpoint(url=url, model='m', max_bytes=1000, retries=0), 'x') == [None]


def test_answers_are_kept_on_disk(tmp_path):
  file = str(tmp_path / 'new' / 'verdicts.db')
  with server(lambda n, q: said(f'answer {n}')) as (url, asked):
    make = lambda **kw: endpoint(**dict(url=url, model='m', cache=file) | kw)
    assert ask(make(), 'x') == ask(make(), 'x') == ['answer 0'] and len(asked) == 1
    assert ask(make(), 'y') == ['answer 1'] and ask(make(), 'x', sample=1) == ['answer 2'] and ask(make(model='n'), 'x') == ['answer 3']
  assert ask(make(), 'x') == ['answer 0'], 'no server is needed for it'


def test_no_more_than_so_many_at_once():
  at_once, most = [0], [0]
  def answer(n, q):
    at_once[0] += 1
    most[0] = max(most[0], at_once[0])
    time.sleep(.05)
    at_once[0] -= 1
    return said('ok')
  with server(answer) as (url, _):
    ask(endpoint(url=url, model='m', parallel=2), *'abcdef')
  assert most[0] == 2


@pytest.mark.parametrize('status', [400, 413, 422])
def test_a_prompt_that_is_refused_where_others_are_answered_has_no_answer(status):
  with server(lambda n, q: (status, b'too long') if 'long' in q['messages'][0]['content'] else said('ok')) as (url, asked):
    judge = endpoint(url=url, model='m')
    with pytest.raises(ValueError, match='too long'):      # nothing was answered yet: the request itself may be wrong
      ask(judge, 'long')
    assert ask(judge, 'short') == ['ok'] and ask(judge, 'long') == [None] and len(asked) == 3


@pytest.mark.parametrize('status', [500, 507, 529])
def test_all_errors_of_the_server_may_pass(status):
  with server(lambda n, q: (status, b'') if n == 0 else said('ok')) as (url, _):
    assert ask(endpoint(url=url, model='m', wait=.01), 'x') == ['ok']


def test_an_error_whose_text_does_not_come_is_tried_again():
  def answer(n, q):
    return (503, b'x', ('Content-Length', '100')) if n == 0 else said('ok')      # a hundred bytes are promised, one comes
  with server(answer) as (url, _):
    assert ask(endpoint(url=url, model='m', wait=.01, seconds=.5), 'x') == ['ok']


def test_a_cache_that_fails_loses_no_answer(tmp_path, caplog):
  file = tmp_path / 'verdicts.db'
  with server(lambda n, q: said('\ud83d half of a pair')) as (url, _):
    judge = endpoint(url=url, model='m', cache=str(file))
    assert ask(judge, 'x') == ['? half of a pair'] == ask(judge, 'x')
    with sqlite3.connect(file) as con:
      con.execute('DROP TABLE answers')
    con.close()
    with caplog.at_level(logging.WARNING, 'rlx'):
      assert ask(judge, 'y') == ['? half of a pair'] and 'no such table' in caplog.text


def test_two_servers_share_no_answers(tmp_path):
  file = str(tmp_path / 'verdicts.db')
  with server(lambda n, q: said('one')) as (first, _), server(lambda n, q: said('two')) as (second, _):
    assert [ask(endpoint(url=u, model='m', cache=file), 'x') for u in (first, second)] == [['one'], ['two']]


def test_of_two_answers_to_one_question_the_first_is_kept(tmp_path):
  with server(lambda n, q: said(f'answer {n}')) as (url, _):
    judge = endpoint(url=url, model='m', cache=str(tmp_path / 'verdicts.db'))
    assert len(set(ask(judge, 'x', 'x', 'x'))) == 1


@pytest.mark.parametrize('kw, message', [
    (dict(url='ftp://x'), "url must begin with http"), (dict(url='http://x', key='NOT_SET'), "'NOT_SET'"),
    (dict(url='http://x', retries=-1), 'retries is at least 0'), (dict(url='http://x', parallel=0), 'parallel at least 1')])
def test_errors(kw, message):
  with pytest.raises(ValueError, match=message):
    endpoint(model='m', **kw)


def test_a_cache_that_is_none(tmp_path):
  (tmp_path / 'text').write_text('no database, ' * 100)
  for path in (tmp_path, tmp_path / 'text'):
    with pytest.raises(ValueError, match='cache .* cannot be used'):
      endpoint(url='http://x', model='m', cache=str(path))
