"""Makes the golden models and answers of tests/models/test_pretrained.py, with transformers.

  PYTHON_WITH_TRANSFORMERS tests/golden/make_models.py            # tests/golden/models: small random models and their logits
  PYTHON_WITH_TRANSFORMERS tests/golden/make_models.py answers    # tests/golden/answers.json, after `python -m rlx.fetch` of both

Made with transformers 5.23, torch 2.13, gguf 0.19. Weights are stored in 16 bits (one model in 32), logits are of those, computed in float32.
"""

import json
import os
import re
import shutil
import sys

import numpy as np
import torch
import transformers

HERE = os.path.dirname(os.path.abspath(__file__))
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=64, bos_token_id=1, eos_token_id=2, pad_token_id=None)
LLAMA3 = dict(rope_type='llama3', rope_theta=500000., factor=8., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=16)
MODELS = {      # name -> (config class, keywords, dtype, bytes of a shard)
    'llama3': ('LlamaConfig', dict(rope_parameters=LLAMA3, tie_word_embeddings=False, rms_norm_eps=1e-5), 'bfloat16', None),
    'smollm2': ('LlamaConfig', dict(rope_theta=100000., tie_word_embeddings=True, rms_norm_eps=1e-5), 'float32', None),
    'linear': ('LlamaConfig', dict(rope_parameters=dict(rope_type='linear', rope_theta=10000., factor=4.), tie_word_embeddings=True, num_hidden_layers=1), 'bfloat16', None),
    'qwen2': ('Qwen2Config', dict(rope_theta=1000000., tie_word_embeddings=False), 'bfloat16', 16_000),
    'qwen3': ('Qwen3Config', dict(rope_theta=1000000., tie_word_embeddings=True, head_dim=12), 'float16', None),
    'qwen3_untied': ('Qwen3Config', dict(rope_theta=1000000., tie_word_embeddings=False, head_dim=8), 'bfloat16', None),
}
LENGTH, KEPT = 40, 24      # tokens fed, and how many of the last ones' logits are kept
QUESTIONS = ('What is the capital of France?', 'Write a Python function that adds two numbers.', 'Count from one to five.')
FETCHED = ('smollm2', 'qwen2.5-coder-0.5b')
TOKENS = 32
TEXTS = (
    'Hello, world!', '12345 678', 'in 2024 x12 10,000.5 3.14e-10', '١٢٣ ４２', 'a1b22c333', "I'm sure it's what they'll've DON'T", "I'M HE'S",
    'tabs\tand\ttabs', '\t\tindented\n\t\t\tmore', 'lines\n\n\nand\r\nlines\r', 'trailing   ', '   leading', 'a  b   c    d', ' ', '\n', '',
    'naïve café Ångström', '東京は日本の首都です。', '你好，世界！', '안녕하세요', 'Привет, мир', 'مرحبا', 'שלום', 'नमस्ते', '🙂🙂 👨‍👩‍👧‍👦 🇫🇷 👍🏽', '\u200b\ufeff\u00a0x',
    '<|im_start|>user\nhi<|im_end|>\n', '<|endoftext|>', '<|im_start|>assistant', 'x<|im_end|> y', '<|im_end', '<tool_call>\n{"name": "f"}\n</tool_call>',
    '<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>', '<think>\nhm\n</think>', '[PAD151665]', 'def f(x):\n    return x ** 2  # squared\n',
    "SELECT COUNT(*) FROM t WHERE a >= 'b' AND c != \"d\";", 'https://example.com/a?b=c&d=%20', '\\frac{1}{2} $x^2$', '!!!???...---___', 'ẞßſ ǅ ﬁ',
    '\x00\x01\x7f', 'a\u0301', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa', 'ＦＵＬＬ width')
DIFFERENT = {'smollm2': (), 'qwen2.5-coder-0.5b': ('a\u0301', )}      # what test_gguf.py says of them


def small():
  """tests/golden/models/<name>: config.json, safetensors; logits.npz holds the ids and the logits of each."""
  folder = os.path.join(HERE, 'models')
  shutil.rmtree(folder, ignore_errors=True)
  ids = np.random.default_rng(0).integers(0, SMALL['vocab_size'], (1, LENGTH))
  kept = dict(ids=ids)
  for number, (name, (kind, keywords, dtype, shard)) in enumerate(MODELS.items()):
    torch.manual_seed(number)
    config = getattr(transformers, kind)(**{**SMALL, **keywords}, attn_implementation='eager')
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
      for path, p in model.named_parameters():      # norms that are not 1, biases that are not 0, scores that matter
        noise = torch.randn_like(p)
        p.copy_(1 + .2 * noise if 'norm' in path else .2 * noise if p.ndim == 1 else noise * (1.5 / p.shape[-1] ** .5))
    to = os.path.join(folder, name)
    model.to(getattr(torch, dtype)).save_pretrained(to, **({'max_shard_size': shard} if shard else {}))
    if os.path.isfile(generation := os.path.join(to, 'generation_config.json')):
      os.remove(generation)
    again = transformers.AutoModelForCausalLM.from_pretrained(to, dtype=torch.float32, attn_implementation='eager')
    with torch.no_grad():
      kept[name] = again(torch.tensor(ids)).logits[0, -KEPT:].numpy()
  np.savez_compressed(os.path.join(folder, 'logits.npz'), **kept)


def answers():
  """tests/golden/answers.json: of each fetched model the ids of texts, and rendered prompts, their ids and the greedy answers' ids."""
  cache = os.path.join(os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'rlx', 'models')
  out = {}
  for name in FETCHED:
    where = dict(pretrained_model_name_or_path=os.path.join(cache, name), gguf_file=f'{name}.gguf')
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    model = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    with open(os.path.join(cache, name, 'chat_template.jinja'), encoding='utf-8') as f:      # as it stands in the GGUF file
      template = f.read()
    tokens = [(t, tokenizer(t, add_special_tokens=False)['input_ids']) for t in TEXTS if t not in DIFFERENT[name]]
    out[name] = dict(tokens=tokens, chats=[])
    for question in QUESTIONS:
      text = tokenizer.apply_chat_template([dict(role='user', content=question)], add_generation_prompt=True, tokenize=False,
                                           chat_template=template)
      ids = tokenizer(text, add_special_tokens=False, return_tensors='pt')
      with torch.no_grad():
        full = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False, repetition_penalty=1., use_cache=True)[0]
      count = ids['input_ids'].shape[1]
      out[name]['chats'].append(dict(question=question, prompt=text, ids=full[:count].tolist(), answer=full[count:].tolist(),
                                     text=tokenizer.decode(full[count:])))
      print(name, repr(out[name]['chats'][-1]['text']), flush=True)
  with open(os.path.join(HERE, 'answers.json'), 'w', encoding='utf-8') as f:
    f.write(re.sub(r'\n {4,}|(?<=\d)\n +(?=])', ' ', json.dumps(out, indent=1)) + '\n')


if __name__ == '__main__':
  answers() if sys.argv[1:] == ['answers'] else small()
