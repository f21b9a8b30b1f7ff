"""Every key of a run, with its unit. A paper's config starts from here and changes what the paper says."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
  """The defaults."""
  c = ml_collections.ConfigDict(type_safe=False)
  c.name = 'base'
  c.seed = 0
  c.workdir = ''                       # folder of the run; '' = runs/<name>-<seed>
  c.init_from = ''                     # folder of another run, whose newest checkpoint gives the parameters

  # ---- the world
  c.env = None                         # spec
  c.context = 'append'                 # spec: what a step is shown of its path
  c.explorer = dict(name='flat', width=8)
  c.curriculum = dict(name='uniform')
  c.rewards = ()                       # specs, beside what the environment pays
  c.probes = ()                        # specs
  c.scorers = {}                       # name -> spec
  c.on_policy_prompts = 16             # prompts a step

  # ---- the models
  c.tokenizer = None                   # spec
  c.models = dict(policy=None)         # name -> spec; 'policy' is the trained one
  c.heads = {}                         # name -> spec: small parts on a model's hidden states; those not here are linear values

  # ---- sampling
  c.sampling = dict(temperature=1., top_k=0, top_p=1., min_p=0.)
  c.sampler = dict(
      slots=64,                        # paths that grow at once
      width=512,                       # ids a path may have
      turn=128,                        # ids an action may have
      segment=0,                       # ids drawn in one call, after which rows that are done stop costing; 0: a whole turn
      chunk=64,                        # ids read in one call
      buckets=(),                      # numbers of rows that are compiled beside `slots`
      lanes=1,                         # parts of the slots computed by a thread each: on a CPU, small models keep one core busy
      copy_from=32,                    # ids: a shorter shared prefix is read again rather than copied
      on_full='end',                   # 'end' | 'window' | 'error'
      stop=(),                         # special tokens or strings that end an action
      max_steps=0,                     # steps an episode may have, 0: as many as the environment allows
      workers=0)                       # threads for the environment

  # ---- from the forest to a batch
  c.rows = 'paths'                     # spec
  c.segment = 'turns'                  # spec: the grain of a step
  c.labels = {}                        # name -> spec
  c.buckets = (dict(rows=16, width=512, nodes=512, prompts=16, actions=None),)   # shapes that are compiled, at most 4

  # ---- the policy's learner
  c.transforms = ()                    # specs
  c.tracks = dict(main=dict(estimator=('grpo',), selector=(), average='token_mean', loss=(dict(name='ppo_clip'),), coef=1.))
  c.tx = dict(name='adamw', learning_rate=1e-6)
  c.epochs = 1
  c.minibatch = 16                     # rows an update
  c.microbatch = None                  # rows a backward pass, None: all of the minibatch
  c.unit = 'row'                       # what a minibatch keeps together: 'row' | 'path' | 'group'
  c.compact = True                     # leave rows without a kept token out of the updates
  c.head = None                        # how log-probabilities and their gradient are made in updates: None: 'fused' for each
                                       # learner whose losses allow it, else 'xla' | 'fused' (one pass, insists) | 'xla' (two) |
                                       # 'reference' (all logits in memory)
  c.learners = {}                      # name -> dict(model, tracks, tx, epochs, minibatch, microbatch, unit, every, when)

  # ---- the course of the run
  c.phases = (dict(name='rl', steps=100, source='rollout'),)   # each may change any key
  c.eval = dict(splits={}, every=0, temperatures=(1.,), prompts=64, phases=None)   # splits: name -> split; every: steps; prompts: a split
  c.checkpoint = dict(every=0, keep=2, best='')                # every: steps, 0 = at the end of each phase; best: a metric's name
  c.episodes = dict(every=10, keep=2)                          # every: steps; keep: prompts
  c.summary = ()                       # (field of the last line, metric or 'metric@phase') pairs
  c.mesh = dict(data=1, fsdp=1, tensor=1)
  c.sharding = ()                      # (regex, tactic) rules, () = replicated
  c.cache = True                       # JAX's persistent compilation cache

  # ---- what `:smoke` changes
  c.smoke = ()                         # (dotted key, value) pairs
  c.lock()                             # a key that is not here is a mistake
  return c
