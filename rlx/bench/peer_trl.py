"""TRL's side of a comparison: what its `GRPOTrainer` calls. Runs where TRL is installed, without rlx.

Sampling is `generate` of transformers, which is what the trainer calls. No gradient checkpointing, since all fits.
"""

import tempfile

import peer_transformers as plain
import serve


def build(job):
  """The side of `serve`."""
  model, tok = plain.load(job)
  loop, logp = dict(sample=plain.sample, score=score, update=update, step=step)[job['work']](model, tok, job)
  return loop, dict(versions=serve.packages('torch', 'transformers', 'trl'), note=plain.note(job)), logp, plain.device_mb


def trainer(model, tok, job, callbacks=()):
  """A trainer of one step a generation."""
  import torch
  from datasets import Dataset
  from trl import GRPOConfig, GRPOTrainer
  size = job['microbatch'] or len(job['completions'])
  config = GRPOConfig(
      output_dir=tempfile.mkdtemp(), per_device_train_batch_size=size, gradient_accumulation_steps=len(job['completions']) // size,
      num_generations=job['samples'], max_completion_length=job['new'], generation_kwargs=dict(min_new_tokens=job['new']),
      learning_rate=1e-6, lr_scheduler_type='constant', temperature=1., beta=0., gradient_checkpointing=False,
      bf16=job['dtype'] == 'bfloat16', use_cpu=not torch.cuda.is_available(), max_steps=10 ** 9, logging_steps=1, report_to='none',
      save_strategy='no', disable_tqdm=True, seed=job['seed'])
  return GRPOTrainer(model=model, reward_funcs=lambda completions, **_: [serve.pay(c) for c in completions], args=config,
                     train_dataset=Dataset.from_dict(dict(prompt=job['texts'])), processing_class=tok, callbacks=list(callbacks))


def score(model, tok, job):
  import torch
  made = trainer(model, tok, job)
  rows = torch.cat([plain.prompts(job), torch.tensor(job['completions'])], 1).to(made.model.device)
  made.model.eval()

  def run():
    with torch.no_grad():
      out = made._get_per_token_logps_and_entropies(
          made.model, rows, torch.ones_like(rows), job['new'], batch_size=job['microbatch'] or len(rows), compute_entropy=True)
      plain.wait()
      return out
  return serve.repeated(run), lambda: tuple(x.float().tolist() for x in run()[:2])


def update(model, tok, job):
  import torch
  made = trainer(model, tok, job)
  made.model.train()
  made.current_gradient_accumulation_steps = len(plain.parts(job))
  made.create_optimizer()
  put = lambda x: torch.as_tensor(x).to(made.model.device)
  prompt, said, adv = put(plain.prompts(job)), put(job['completions']), put(job['advantages'])
  count = put(float(said.numel()))

  def run():
    for part in plain.parts(job):
      loss = made._compute_loss(made.model, dict(
          prompt_ids=prompt[part], prompt_mask=torch.ones_like(prompt[part]), completion_ids=said[part],
          completion_mask=torch.ones_like(said[part]), advantages=adv[part], num_items_in_batch=count))
      loss.backward()
    torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.)
    made.optimizer.step()
    made.optimizer.zero_grad(set_to_none=True)
    made._metrics['train'].clear()
    plain.wait()
  return serve.repeated(run), None


def step(model, tok, job):
  from transformers import TrainerCallback

  def loop(turn):
    class Turns(TrainerCallback):
      """Each repetition is from the end of one step to the end of the next."""

      def on_step_end(self, *args, **kwargs):
        plain.wait()
        turn()
    trainer(model, tok, job, [Turns()]).train()
  return loop, None


if __name__ == '__main__':
  serve.serve(build)
