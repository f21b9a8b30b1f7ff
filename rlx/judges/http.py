"""A judge behind an OpenAI-compatible endpoint: retries, deadlines, and a cache on disk."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
import urllib.error
import urllib.request
import weakref
from collections.abc import Callable
from http import client

AGAIN = (408, 409, 425, 429)     # may be better the next time, as may all from 500 on
PROMPT = (400, 413, 422)         # what a server says to a prompt that is too long for it, and to a request that is wrong


def http(*, url: str, model: str, key: str = '', system: str = '', temperature: float = 0., max_tokens: int = 512, seconds: float = 60.,
         retries: int = 3, wait: float = 1., parallel: int = 8, cache: str = '', max_bytes: int = 1 << 20) -> Callable:
  """Asks `POST <url>/chat/completions`.

  An attempt that takes longer than `seconds`, that the server cannot answer now (408, 409, 425, 429, 5xx), or whose answer is not what
  the protocol says, is made again after `wait`, 2 `wait`, 4 `wait` ... seconds (or what Retry-After says, if that is no longer than
  `seconds`); after `retries` further ones there is no answer, which is logged once a minute at most. Nor is there one
  to a prompt that a server which has answered others refuses (400, 413, 422). Answers are kept for ever in `cache`.

  Args:
    url: such as 'http://localhost:8000/v1'.
    model: its name there.
    key: name of the environment variable that holds the API key; '' for none.
    system: a system message in front.
    temperature: of the answers.
    max_tokens: their length.
    seconds: of silence of the server, and of one answer's body.
    retries: further attempts.
    wait: seconds before the second attempt.
    parallel: questions under way at once.
    cache: a file; '' for none. Questions are told apart by address, model, settings, prompt and `sample`.
    max_bytes: of an answer.

  Raises:
    ValueError: `key` names a variable that is not set, `url` is no http address, `retries` is below 0 or `parallel` below 1, `cache` is no
      file of answers; from the judge, a refusal that will not change (401, 404 ...).
  """
  if not url.startswith(('http://', 'https://')):
    raise ValueError(f"url must begin with http:// or https://, it is '{url}'")
  if key and key not in os.environ:
    raise ValueError(f"the environment variable '{key}', which should hold the judge's API key, is not set")
  if retries < 0 or parallel < 1:
    raise ValueError(f'retries is at least 0 and parallel at least 1; they are {retries} and {parallel}')
  address = url.rstrip('/') + '/chat/completions'
  head = {'Content-Type': 'application/json', **({'Authorization': f'Bearer {os.environ[key]}'} if key else {})}
  pool = concurrent.futures.ThreadPoolExecutor(parallel, thread_name_prefix='rlx-judge')
  read, write = _cache(cache)
  told, answered, gates = [-60.], [], weakref.WeakKeyDictionary()

  def ask(body):
    """(text, None) or (None, (what was wrong, seconds to wait or None))."""
    deadline = time.monotonic() + seconds
    try:
      with urllib.request.urlopen(urllib.request.Request(address, body, head), timeout=seconds) as reply:
        raw = b''
        while chunk := reply.read1(1 << 16):
          raw += chunk
          if time.monotonic() > deadline:
            return None, (f'no whole answer within {seconds} s', None)
          if len(raw) > max_bytes:
            return None, (f'an answer of more than {max_bytes} bytes', None)
      said = json.loads(raw)['choices'][0]['message']['content']
      if not isinstance(said, str):
        raise TypeError(f'content is {said!r}')
      return said, None
    except urllib.error.HTTPError as e:
      text = ''
      with contextlib.suppress(OSError, client.HTTPException), e:
        text = e.read(500).decode(errors='replace')
      if e.code in PROMPT and answered:      # it answers others, so it is this prompt that it does not take
        return None, (f'{e.code}: {text}', math.inf)
      if e.code not in AGAIN and e.code < 500:
        raise ValueError(f'the judge at {address} refused with {e.code}: {text}') from e
      later = e.headers.get('Retry-After', '')
      return None, (f'{e.code}: {text}', float(later) if later.isdecimal() and float(later) <= seconds else None)
    except (OSError, client.HTTPException) as e:
      return None, (f'{type(e).__name__}: {e}', None)
    except (ValueError, KeyError, IndexError, TypeError) as e:
      return None, (f'an answer that is not of the protocol: {type(e).__name__}: {e}', None)

  async def judge(prompt: str, *, sample: int = 0) -> str | None:
    messages = [dict(role='system', content=system)] * bool(system) + [dict(role='user', content=prompt)]
    body = json.dumps(dict(model=model, messages=messages, temperature=temperature, max_tokens=max_tokens, seed=sample)).encode()
    name = hashlib.sha256(address.encode() + b'\n' + body).hexdigest()
    if (known := read(name)) is not None:
      return known
    loop = asyncio.get_running_loop()
    gate = gates.setdefault(loop, asyncio.Semaphore(parallel))      # questions that wait do so here, where they can be given up
    for attempt in range(retries + 1):
      async with gate:
        said, wrong = await loop.run_in_executor(pool, ask, body)
      if said is not None:
        answered[:] = [True]
        return write(name, said.encode(errors='replace').decode())
      if wrong[1] == math.inf:
        break
      if attempt < retries:
        await asyncio.sleep(wait * 2**attempt if wrong[1] is None else wrong[1])
    if time.monotonic() - told[0] > 60:
      told[0] = time.monotonic()
      logging.getLogger('rlx').warning('no verdict from %s after %d attempts: %s', address, attempt + 1, wrong[0])
    return None
  return judge


def _cache(path):
  """(read(name) -> text or None, write(name, text) -> text) of a file."""
  if not path:
    return lambda name: None, lambda name, said: said
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  try:
    con, lock = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30), threading.Lock()
    con.execute('CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, said TEXT NOT NULL)')
  except sqlite3.Error as e:
    raise ValueError(f"the judge's cache '{path}' cannot be used: {e}") from e

  def run(*statement):
    try:
      with lock:
        return con.execute(*statement).fetchone()
    except sqlite3.Error as e:      # a full disk loses no verdict
      logging.getLogger('rlx').warning("the judge's cache '%s' failed: %s", path, e)
      return None

  def read(name):
    found = run('SELECT said FROM answers WHERE name = ?', (name,))
    return found and found[0]

  def write(name, said):
    """What is kept: of two answers to one question that were under way at once the first."""
    run('INSERT OR IGNORE INTO answers VALUES (?, ?)', (name, said))
    return read(name) or said
  return read, write
