"""A judge behind an OpenAI-compatible endpoint: retries, deadlines, and a cache on disk."""

import asyncio
import concurrent.futures
import hashlib
import json
import logging
import os
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import client

AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)     # may be better the next time


def http(*, url: str, model: str, key: str = '', system: str = '', temperature: float = 0., max_tokens: int = 512, seconds: float = 60.,
         retries: int = 3, wait: float = 1., parallel: int = 8, cache: str = '', max_bytes: int = 1 << 20) -> Callable:
  """Asks `POST <url>/chat/completions`.

  An attempt that takes longer than `seconds`, that the server cannot answer now (408, 409, 425, 429, 5xx), or whose answer is not what
  the protocol says, is made again after `wait`, 2 `wait`, 4 `wait` ... seconds (or what Retry-After says, if that is no longer than
  `seconds`); after `retries` further ones there is no answer, which is logged once a minute at most. Answers are kept for ever in `cache`.

  Args:
    url: such as 'http://localhost:8000/v1'.
    model: its name there.
    key: name of the environment variable that holds the API key; '' for none.
    system: a system message in front.
    temperature: of the answers.
    max_tokens: their length.
    seconds: of one attempt, from its connection to its last byte.
    retries: further attempts.
    wait: seconds before the second attempt.
    parallel: questions under way at once.
    cache: a file; '' for none. Questions are told apart by model, settings, prompt and `sample`.
    max_bytes: of an answer.

  Raises:
    ValueError: `key` names a variable that is not set, `url` is no http address; from the judge, a refusal that will not change (401, 404 ...).
  """
  if not url.startswith(('http://', 'https://')):
    raise ValueError(f"url must begin with http:// or https://, it is '{url}'")
  if key and key not in os.environ:
    raise ValueError(f"the environment variable '{key}', which should hold the judge's API key, is not set")
  address = url.rstrip('/') + '/chat/completions'
  head = {'Content-Type': 'application/json', **({'Authorization': f'Bearer {os.environ[key]}'} if key else {})}
  pool = concurrent.futures.ThreadPoolExecutor(parallel, thread_name_prefix='rlx-judge')
  read, write = _cache(cache)
  told = [-60.]

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
      with e:
        text = e.read(500).decode(errors='replace')
      if e.code not in AGAIN:
        raise ValueError(f'the judge at {address} refused with {e.code}: {text}') from e
      later = e.headers.get('Retry-After', '')
      return None, (f'{e.code}: {text}', float(later) if later.isdigit() and float(later) <= seconds else None)
    except (OSError, client.HTTPException) as e:
      return None, (f'{type(e).__name__}: {e}', None)
    except (ValueError, KeyError, IndexError, TypeError) as e:
      return None, (f'an answer that is not of the protocol: {type(e).__name__}: {e}', None)

  async def judge(prompt: str, *, sample: int = 0) -> str | None:
    messages = [dict(role='system', content=system)] * bool(system) + [dict(role='user', content=prompt)]
    body = json.dumps(dict(model=model, messages=messages, temperature=temperature, max_tokens=max_tokens, seed=sample)).encode()
    name = hashlib.sha256(body).hexdigest()
    if (known := read(name)) is not None:
      return known
    for attempt in range(retries + 1):
      said, wrong = await asyncio.get_running_loop().run_in_executor(pool, ask, body)
      if said is not None:
        write(name, said)
        return said
      if attempt < retries:
        await asyncio.sleep(wait * 2**attempt if wrong[1] is None else wrong[1])
    if time.monotonic() - told[0] > 60:
      told[0] = time.monotonic()
      logging.getLogger('rlx').warning('no verdict from %s after %d attempts: %s', address, retries + 1, wrong[0])
    return None
  return judge


def _cache(path):
  """(read(name) -> text or None, write(name, text)) of a file."""
  if not path:
    return lambda name: None, lambda name, said: None
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  con, lock = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30), threading.Lock()
  con.execute('CREATE TABLE IF NOT EXISTS answers (name TEXT PRIMARY KEY, said TEXT NOT NULL)')

  def read(name):
    with lock:
      found = con.execute('SELECT said FROM answers WHERE name = ?', (name,)).fetchone()
    return found and found[0]

  def write(name, said):
    with lock:
      con.execute('INSERT OR REPLACE INTO answers VALUES (?, ?)', (name, said))
  return read, write
