"""What a step is shown of its path, as parts: texts, and `Said` for the ids of earlier actions."""

import pytest

from rlx.contexts.append import append
from rlx.contexts.chat import chat
from rlx.contexts.window import window
from rlx.grow.tokenizer import render
from rlx.types import Message, Said, Task, Turn, Variables
from tests.grow import game

TASK = Task('t')
HISTORY = [Turn('q', 'a0'), Turn('o1', 'a1'), Turn('o2', 'a2'), Turn('o3')]
DROPPED = [Turn('q'), Turn('o2', 'a2'), Turn('o3')]      # what on_full='window' leaves of it when two turns go


def test_append_shows_everything():
  assert append([Turn('q')], TASK) == ['q']
  assert append(HISTORY, TASK) == ['q', Said(0), 'o1', Said(1), 'o2', Said(2), 'o3']
  assert append(DROPPED, TASK) == ['q', 'o2', Said(1), 'o3']


@pytest.mark.parametrize('k, parts', [
    (0, ['q', 'o3']),
    (1, ['q', 'o2', Said(2), 'o3']),
    (2, ['q', 'o1', Said(1), 'o2', Said(2), 'o3']),
    (3, ['q', Said(0), 'o1', Said(1), 'o2', Said(2), 'o3']),
    (9, ['q', Said(0), 'o1', Said(1), 'o2', Said(2), 'o3'])])
def test_a_window_shows_the_prompt_the_last_k_actions_and_what_they_answered(k, parts):
  assert window(HISTORY, TASK, k=k) == parts
  assert window([Turn('q')], TASK, k=k) == ['q']


def test_a_window_of_a_history_that_lost_turns():
  assert window(DROPPED, TASK, k=1) == ['q', 'o2', Said(1), 'o3']
  assert window(DROPPED, TASK, k=9) == ['q', 'o2', Said(1), 'o3']


def test_a_header_may_hold_braces():
  header = 'Answer as {"sql": ...}. {prompt} Steps:'
  assert window([Turn('count {x}')], TASK, header=header) == ['Answer as {"sql": ...}. count {x} Steps:']


def test_while_nothing_falls_out_a_window_continues_its_row():
  """With k = 1 the second context begins with the first and its action; the third does not."""
  ids = [[3], [4]]
  shown = [render(window(HISTORY[:n] + [Turn(HISTORY[n].obs)], TASK, k=1), ids[:n], game.TOK) for n in range(3)]
  assert shown[1][:len(shown[0]) + 1] == [*shown[0], 3]
  assert shown[2][:len(shown[1]) + 1] != [*shown[1], 4]
  whole = [render(append(HISTORY[:n] + [Turn(HISTORY[n].obs)], TASK), ids[:n], game.TOK) for n in range(3)]
  assert whole[2][:len(whole[1]) + 1] == [*whole[1], 4]


def test_a_conversation():
  user, tool, me = (lambda text, role=role: Message(role, text) for role in ('user', 'tool', 'assistant'))
  assert chat([Turn('q')], TASK) == [user('q')]
  assert chat(HISTORY, TASK) == [user('q'), me(Said(0)), user('o1'), me(Said(1)), user('o2'), me(Said(2)), user('o3')]
  assert chat(HISTORY, TASK, observation_role='tool') == [user('q'), me(Said(0)), tool('o1'), me(Said(1)), tool('o2'), me(Said(2)), tool('o3')]
  assert chat(DROPPED, TASK, observation_role='tool') == [user('q'), tool('o2'), me(Said(1)), tool('o3')]
  tools = [dict(name='f')]
  assert chat([Turn('q')], TASK, system='', tools=tools, thinking=False) == [
      Variables(dict(tools=tools, enable_thinking=False)), Message('system', ''), user('q')]
  with pytest.raises(ValueError, match="observation_role is 'user' or 'tool', not 'bot'"):
    chat(HISTORY, TASK, observation_role='bot')
