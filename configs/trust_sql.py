"""TRUST-SQL's two tracks on made databases: the answer trains everything, the schema what leads up to it. arXiv:2603.16448.

Each track is GRPO on its own reward (population deviation, clipped to 10), averaged over its own tokens, the schema's
counting a quarter. Paper: 8 rollouts, 10 turns, a schema paid only where the answer is right ('truematch'; the release's
default is 'totalmatch', paid in any case, and weighs it 0.5). Its KL and entropy terms are left out. World, policy and
imitation are those of `sql_small`.
"""

from configs import sql_small


def get_config():
  c = sql_small.get_config()
  c.name = 'trust_sql'
  c.env = dict(name='sql', world='four_acts', schema='truematch')
  group = lambda channel: (dict(name='grpo', channel=channel, ddof=0, eps=1e-6, clip=10.),)
  c.tracks = dict(
      answer=dict(estimator=group('task'), average='seq_mean', loss=(dict(name='ppo_clip'),), coef=1.),
      schema=dict(estimator=group('schema'), selector=(dict(name='where', label='schema'),), average='seq_mean',
                  loss=(dict(name='ppo_clip'),), coef=.25))
  return c
