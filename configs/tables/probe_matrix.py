"""Every method on every probe task: `python -m rlx.table --config configs/tables/probe_matrix.py`.

Policies of one layer, from scratch, inside jit; a program a method. What a paper claims its method is better at is marked beforehand.
"""


def get_config():
  grpo = dict(name='grpo', std=False)
  row = lambda name, *estimator, **kw: dict(name=name, estimator=estimator, **kw)
  memory, delay, fork, plan, noise = 'revisit', 'delayed_reward', 'fork', 'plan_execute', 'noisy_long'
  return dict(
      tasks=('delayed_reward', 'revisit', 'plan_execute', 'fork', 'noisy_long'),
      against='GRPO', seeds=8, updates=100, groups=4, width=8, learning_rate=.05,
      claims='Area under the learning curve (mean return of 100 updates of 4 prompts x 8 rollouts), a policy of one layer, 8 seeds, 95 %.',
      rows=(
          row('GRPO', 'grpo'),
          dict(name='Dr. GRPO', estimator=(grpo,), average=dict(name='constant', length=24.)),
          row('GRPO, no deviation', grpo),
          row('RLOO', 'rloo'),
          row('REINFORCE++', 'reinforce_pp'),
          row('REINFORCE++, reset', dict(name='reinforce_pp', gaps='reset')),
          row('REINFORCE++ baseline', dict(name='reinforce_pp', baseline=True)),
          row('GAE, lambda 1', 'gae'),
          row('GAE, lambda 0.95', dict(name='gae', lam=.95), claims=(noise,)),
          row('bi-level GAE', dict(name='bi_level_gae', lam=.95, gamma_turn=1., lam_turn=.95), claims=(delay,)),
          row('LOOP', 'loop'),
          row('OPO', 'opo'),
          row('GPG', 'gpg'),
          row('ReMax', 'remax', greedy=True),
          row('Pass@k', 'pass_at_k'),
          row('BNPO', 'bnpo'),
          row('GiGPO', 'gigpo', claims=(memory, fork)),
          row('GiGPO, deviation', dict(name='gigpo', std=True), claims=(memory, fork)),
          row('HGPO', 'hgpo', claims=(memory, fork)),
          row('Step-GRPO', dict(name='step_grpo', channel='turn', same='state'), claims=(noise,)),
          row('CM2', dict(name='cm2', channel='turn'), claims=(noise,)),
          row('SLATE', dict(name='slate', channel='turn'), fork=3, claims=(fork,)),
          row('discounted steps', 'step_discount'),
          row('RewardFlow', 'rewardflow', claims=(memory, delay)),
          row('TreeRL', 'treerl', fork=3, claims=(fork,)),
          row('Tree-GRPO', 'tree_grpo', fork=3, claims=(fork,)),
          row('HiPER', 'hiper', claims=(plan,)),
          row('ProRAG', dict(name='prorag', process='prm'), claims=(noise,)),
          row('RLVMR', dict(name='rlvmr', meta='turn', std=True), claims=(noise,)),
          row('EMPG', 'grpo', 'empg', claims=(noise,)),
          row('DynaMO', 'grpo', 'dynamo'),
          row('AEPO (agentic)', 'grpo', 'aepo_agentic'),
          row('RiskPO', dict(name='riskpo', bundle=2)),
          row('IGPO', 'igpo', needs='answer', claims=(delay,)),
          row('SPAE', 'spae', transforms=('spae_potential',), needs='answer', claims=(fork,)),
          row('permuted advantages', 'grpo', 'permuted'),
          dict(name='TRUST-SQL', missing='its two tracks need a schema reward of its own'),
          dict(name='SPA', missing='its progress estimator is a second model that is trained beside the policy'),
          dict(name='OPRL', missing='its process reward model is a second model that is trained beside the policy'),
          dict(name='ArenaRL', missing='a judge has to compare texts'),
          dict(name='TTRL, SCOPE, EMPO', missing='they vote on the text of answers'),
          dict(name='ARES', missing='it reads trigger words')))
