"""Makes chat.json: what `transformers` renders with the chat templates of the families. It needs transformers, nothing of rlx.

  python tests/golden/chat.py        # transformers 5.23.0, jinja2 3.1.6

templates/smollm2.jinja and qwen2_5.jinja are those in the GGUF files of HuggingFaceTB/SmolLM2-135M-Instruct and
Qwen/Qwen2.5-Coder-0.5B-Instruct, qwen3.jinja is that of Qwen/Qwen3-0.6B (all Apache-2.0). llama3.jinja is written anew and renders as
Llama 3.2's does where the cases below go; alternating.jinja stands for templates that refuse an order of roles.
"""

import datetime
import json
import pathlib

import tokenizers
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
DATE = '2024-07-26'
TOKENS = dict(smollm2=('<|im_start|>', '<|im_end|>'), qwen2_5=('<|endoftext|>', '<|im_end|>'), qwen3=('<|endoftext|>', '<|im_end|>'),
              llama3=('<|begin_of_text|>', '<|eot_id|>'), alternating=('<bos>', '<eos>'))
TOOLS = [dict(type='function', function=dict(name='run_sql', description='Runs <one> query & shows its "rows"; naïve – 数据.', parameters=dict(
    type='object', required=['query'], properties=dict(query=dict(type='string', description='SQL'), rows=dict(type='integer')))))]
CALL = '<tool_call>\n{"name": "run_sql", "arguments": {"query": "SELECT 1"}}\n</tool_call>'
TALK = [('user', 'How many?'), ('assistant', 'Let me see.'), ('user', ' 2 rows \n'), ('assistant', 'Two.'), ('user', 'Sure?')]
THOUGHTS = [(r, f'<think>\nabout {i}\n</think>\n\n{c}' if r == 'assistant' else c) for i, (r, c) in enumerate(TALK)]
ACTS = [('user', 'How many?'), ('assistant', f'<think>\nhm\n</think>\n\n{CALL}'), ('tool', '[[1]]'), ('assistant', CALL), ('tool', 'é "x"'),
        ('tool', 'two')]
SYSTEM = ('system', ' You answer in SQL. ')
CASES = {
    'one': (TALK[:1], {}), 'talk': (TALK, {}), 'ended': (TALK[:4], dict(add_generation_prompt=False)),
    'system': ([SYSTEM, *TALK], {}), 'no system': ([('system', ''), *TALK], {}), 'late system': ([*TALK[:2], SYSTEM, *TALK[2:]], {}),
    'tools': (TALK, dict(tools=TOOLS)), 'system and tools': ([SYSTEM, *TALK], dict(tools=TOOLS)), 'calls': (ACTS, dict(tools=TOOLS)),
    'calls, then a question': ([*ACTS, ('assistant', 'Two.'), TALK[4]], {}), 'thoughts': (THOUGHTS, {}),
    'thinking': (THOUGHTS, dict(enable_thinking=True)), 'not thinking': (TALK, dict(enable_thinking=False)),
    'thoughts, not thinking': (THOUGHTS[:3], dict(enable_thinking=False)),
    'nothing said': ([('user', ''), ('assistant', ''), ('user', '<|im_end|>')], {})}


class Then(datetime.datetime):
  """The clock of a template, stopped."""
  @classmethod
  def now(cls, tz=None):
    return cls.fromisoformat(DATE)


def main():
  chat_template_utils.datetime = Then
  out = dict(transformers=transformers.__version__, date=DATE, tokens=TOKENS, renderings=[])
  for name, (bos, eos) in TOKENS.items():
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    tok.chat_template = (HERE / 'templates' / f'{name}.jinja').read_text(encoding='utf-8')
    for case, (messages, kw) in CASES.items():
      kw = dict(add_generation_prompt=True, **kw) if 'add_generation_prompt' not in kw else dict(kw)
      try:
        text = tok.apply_chat_template([dict(role=r, content=c) for r, c in messages], tokenize=False, **kw)
      except Exception as e:   # the template's own
        text, kw['error'] = None, str(e)
      error = kw.pop('error', None)
      generate = kw.pop('add_generation_prompt')
      out['renderings'].append(dict(template=name, case=case, messages=messages, values=kw, generate=generate, text=text, error=error))
  (HERE / 'chat.json').write_text(json.dumps(out, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')


if __name__ == '__main__':
  main()
