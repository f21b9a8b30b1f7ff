"""tunix's side of a comparison: its sampler, its scoring, its trainer's step, its GRPO learner. Runs without rlx.

Its sampler takes texts and puts a token before each, so it gets one word less: 64 tokens again. Sampling in float32 or bfloat16,
no rematerialisation, caches as long as the work needs, prompts 8 times each.
"""

import json
import os

import serve


def build(job):
  """The side of `serve`."""
  import jax
  import jax.numpy as jnp
  from flax import nnx
  import tunix  # noqa: F401  the first thing to be missed
  from tunix.models.llama3 import model as llama
  from tunix.models.llama3 import params
  from transformers import AutoTokenizer
  with open(os.path.join(job['model'], 'config.json'), encoding='utf-8') as f:
    c = json.load(f)
  if c['model_type'] != 'llama':
    raise ValueError(f"the tunix side reads Llama models, '{job['model']}' is {c['model_type']}")
  heads = c['num_attention_heads']
  config = llama.ModelConfig(
      num_layers=c['num_hidden_layers'], vocab_size=c['vocab_size'], embed_dim=c['hidden_size'], hidden_dim=c['intermediate_size'],
      num_heads=heads, head_dim=c.get('head_dim') or c['hidden_size'] // heads, num_kv_heads=c['num_key_value_heads'],
      rope_theta=int(c.get('rope_theta') or c['rope_parameters']['rope_theta']), norm_eps=c['rms_norm_eps'],
      weight_tying=c['tie_word_embeddings'], remat_config=llama.RematConfig.NONE)
  mesh = jax.make_mesh((1, 1), ('fsdp', 'tp'), axis_types=(jax.sharding.AxisType.Auto,) * 2, devices=jax.devices()[:1])
  model = params.create_model_from_safe_tensors(job['model'], config, mesh, dtype=getattr(jnp, job['dtype']))
  tok = AutoTokenizer.from_pretrained(job['model'])
  if tok.pad_token is None:
    tok.pad_token = tok.eos_token
  loop, logp = dict(sample=sample, score=score, update=update, step=step)[job['work']](model, tok, config, mesh, job)
  note = '' if job['microbatch'] is None else f"{job['microbatch']} rows a microbatch"
  why = 'tunix 0.1.7 rotates by a base of 1,000,000 whatever the model says'
  return loop, dict(versions=serve.packages('google-tunix', 'jax'), note=note, scores=why, warm=2), logp, serve.jax_mb(jax)


def _prompts(job):
  """Prompts a microbatch."""
  rows = job['microbatch'] or len(job['completions'])
  if rows % job['samples']:
    raise ValueError(f"tunix takes whole prompts: a microbatch is a multiple of {job['samples']} rows, not {rows}")
  return rows // job['samples']


def _ids(job):
  """(`[32, 64]` prompts, `[32, 64]` completions, their slices)."""
  import jax.numpy as jnp
  size, prompts = _prompts(job) * job['samples'], [ids for ids in job['prompts'] for _ in range(job['samples'])]
  return jnp.array(prompts), jnp.array(job['completions']), [slice(a, a + size) for a in range(0, len(prompts), size)]


def sample(model, tok, config, mesh, job):
  from tunix.generate import sampler
  width = len(job['prompts'][0])
  cache = sampler.CacheConfig(cache_size=width + job['new'], num_layers=config.num_layers, num_kv_heads=config.num_kv_heads,
                              head_dim=config.head_dim)
  made, count = sampler.Sampler(model, tok, cache), [0]
  texts = [text for text in job['shorter'] for _ in range(job['samples'])]

  def run():
    count[0] += 1
    out = made(texts, max_generation_steps=job['new'], max_prompt_length=width, temperature=1., top_p=1., seed=count[0],
               eos_tokens=[config.vocab_size + 7])      # an id that is never drawn: no early stop
    if any(len(x) != job['new'] for x in out.tokens):
      raise RuntimeError('a sample is shorter than it should be')
  return serve.repeated(run), None


def score(model, tok, config, mesh, job):
  import jax
  import numpy as np
  from flax import nnx
  from tunix.rl import algo_core, common
  graph, state = nnx.split(model)
  prompts, said, parts = _ids(job)

  def run():
    out = []
    for part in parts:
      logp, logits = common.compute_per_token_logps(
          graph, state, prompts[part], said[part], pad_id=tok.pad_token_id, eos_id=tok.eos_token_id, return_logits=True)
      out.append((logp, algo_core.compute_entropy_from_logits(logits)))
    return jax.block_until_ready(out)

  def logp():
    return tuple(np.concatenate([np.asarray(x, np.float32) for x in column]).tolist() for column in zip(*run()))
  return serve.repeated(run), logp


def _learner(model, tok, config, mesh, job):
  """(learner, cluster) of one update a generation."""
  import optax
  from tunix.rl import rl_cluster
  from tunix.rl.grpo import grpo_learner
  from tunix.rl.rollout import base_rollout
  width, role = len(job['prompts'][0]), rl_cluster.Role
  cluster = rl_cluster.ClusterConfig(
      role_to_mesh={role.ACTOR: mesh, role.REFERENCE: mesh, role.ROLLOUT: mesh}, rollout_engine='vanilla', offload_to_cpu=False,
      training_config=rl_cluster.RLTrainingConfig(
          actor_optimizer=optax.chain(optax.clip_by_global_norm(1.), optax.adamw(1e-6, weight_decay=0.)),
          eval_every_n_steps=10 ** 9, max_steps=10 ** 6, mini_batch_size=len(job['prompts']), train_micro_batch_size=_prompts(job)),
      rollout_config=base_rollout.RolloutConfig(
          max_tokens_to_generate=job['new'], max_prompt_length=width, kv_cache_size=width + job['new'], temperature=1., top_p=1.,
          eos_tokens=[config.vocab_size + 7]))
  made = rl_cluster.RLCluster(actor=model, reference=None, tokenizer=tok, cluster_config=cluster)
  algorithm = grpo_learner.GRPOConfig(num_generations=job['samples'], num_iterations=1, beta=0., epsilon=0.2)
  pay = lambda prompts, completions, **_: [serve.pay(c) for c in completions]
  return grpo_learner.GRPOLearner(rl_cluster=made, algo_config=algorithm, reward_fns=pay), made


def update(model, tok, config, mesh, job):
  import jax
  import jax.numpy as jnp
  from flax import nnx
  from tunix.rl.grpo import grpo_learner
  _, cluster = _learner(model, tok, config, mesh, job)
  fn, _ = cluster.actor_trainer.jit_train_and_eval_step()
  prompts, said, parts = _ids(job)
  examples = [grpo_learner.TrainExample(
      prompt_ids=prompts[p], prompt_mask=jnp.ones_like(prompts[p], bool), completion_ids=said[p],
      completion_mask=jnp.ones_like(said[p], bool), ref_per_token_logps=None, advantages=jnp.array(job['advantages'])[p],
      old_per_token_logps=None) for p in parts]

  def loop(turn):
    with mesh:
      while True:
        for example in examples:
          seen = fn(example)
        jax.block_until_ready((seen, nnx.state(cluster.actor_trainer.model)))
        turn()
  return loop, None


def step(model, tok, config, mesh, job):
  import itertools
  import jax
  import numpy as np
  from flax import nnx
  learner, cluster = _learner(model, tok, config, mesh, job)
  inner = learner._run_global_step

  def loop(turn):
    def outer(*args, **kwargs):
      inner(*args, **kwargs)
      jax.block_until_ready(nnx.state(cluster.actor_trainer.model))
      turn()
    learner._run_global_step = outer
    with mesh:
      learner.train(itertools.repeat(dict(prompts=np.array(job['shorter']))))
  return loop, None


if __name__ == '__main__':
  serve.serve(build)
