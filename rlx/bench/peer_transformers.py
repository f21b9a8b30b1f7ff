"""transformers' side of a comparison: `generate`, and a plain torch loop. Runs where transformers is installed, without rlx."""

import os

import serve


def build(job):
  """The side of `serve`."""
  parts = load(job)
  loop, logp = dict(sample=sample, score=score, update=update, step=step)[job['work']](*parts, job)
  return loop, dict(versions=serve.packages('torch', 'transformers'), note=note(job)), logp, device_mb


def load(job):
  """(model, tokenizer), with every core at work."""
  import torch
  from transformers import AutoModelForCausalLM, AutoTokenizer
  torch.manual_seed(job['seed'])
  torch.set_num_threads(len(os.sched_getaffinity(0)))
  model = AutoModelForCausalLM.from_pretrained(job['model'], dtype=getattr(torch, job['dtype']))
  tok = AutoTokenizer.from_pretrained(job['model'])
  if tok.pad_token is None:
    tok.pad_token = tok.eos_token
  return model.to('cuda' if torch.cuda.is_available() else 'cpu'), tok


def wait():
  """Until an accelerator has done what it was told."""
  import torch
  if torch.cuda.is_available():
    torch.cuda.synchronize()


def device_mb():
  """The most memory held on an accelerator so far, None without one."""
  import torch
  return torch.cuda.max_memory_allocated() / 2 ** 20 if torch.cuda.is_available() else None


def note(job):
  """What the versions do not say."""
  return '' if job['microbatch'] is None else f"{job['microbatch']} rows a microbatch"


def prompts(job):
  """`[32, 64]` ids, every prompt as often as it is answered."""
  import torch
  return torch.tensor([ids for ids in job['prompts'] for _ in range(job['samples'])])


def parts(job):
  """The rows of each microbatch, as slices."""
  count = len(job['completions'])
  size = job['microbatch'] or count
  return [slice(at, at + size) for at in range(0, count, size)]


def generate(model, tok, job):
  """`[32, 128]` ids: prompts and 64 new tokens of each."""
  import torch
  ids = prompts(job).to(model.device)
  with torch.no_grad():
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1., top_k=0, top_p=1.,
                         max_new_tokens=job['new'], min_new_tokens=job['new'], pad_token_id=tok.pad_token_id)
  wait()
  if out.shape[1] != ids.shape[1] + job['new']:
    raise RuntimeError(f'a sample is shorter than it should be: {tuple(out.shape)}')
  return out


def sample(model, tok, job):
  model.eval()
  return serve.repeated(lambda: generate(model, tok, job)), None


def scores(model, rows, new, entropy):
  """(log-probabilities, entropies) `[n, new]` of the last `new` tokens of each row."""
  import torch
  logits = model(input_ids=rows, logits_to_keep=new + 1, use_cache=False).logits[:, :-1].float()
  logps = torch.log_softmax(logits, -1)
  return logps.gather(-1, rows[:, -new:, None])[..., 0], -(logps.exp() * logps).sum(-1) if entropy else None


def score(model, tok, job):
  import torch
  model.eval()
  rows = torch.cat([prompts(job), torch.tensor(job['completions'])], 1).to(model.device)

  def run():
    with torch.no_grad():
      out = [scores(model, rows[part], job['new'], True) for part in parts(job)]
    wait()
    return out
  return serve.repeated(run), lambda: tuple(torch.cat(x).tolist() for x in zip(*run()))


def learner(model, job):
  """`learn(rows, advantages)`: the clipped surrogate, its old policy the one it starts from, clip and AdamW."""
  import torch
  tx = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.)
  model.train()

  def learn(rows, adv):
    for part in parts(job):
      logp, _ = scores(model, rows[part], job['new'], False)
      ratio, a = torch.exp(logp - logp.detach()), adv[part, None]
      loss = torch.maximum(-a * ratio, -a * ratio.clamp(0.8, 1.2)).sum() / (len(rows) * job['new'])
      loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.)
    tx.step()
    tx.zero_grad(set_to_none=True)
    wait()
  return learn


def update(model, tok, job):
  import torch
  learn = learner(model, job)
  rows = torch.cat([prompts(job), torch.tensor(job['completions'])], 1).to(model.device)
  adv = torch.tensor(job['advantages']).to(model.device)
  return serve.repeated(lambda: learn(rows, adv)), None


def step(model, tok, job):
  import torch
  learn = learner(model, job)

  def run():
    model.eval()
    rows = generate(model, tok, job)
    model.train()
    paid = torch.tensor([serve.pay(text) for text in tok.batch_decode(rows[:, -job['new']:])]).to(model.device)
    paid = paid.view(-1, job['samples'])
    adv = (paid - paid.mean(1, keepdim=True)) / (paid.std(1, keepdim=True) + 1e-4)
    learn(rows, adv.view(-1))
  return serve.repeated(run), None


if __name__ == '__main__':
  serve.serve(build)
